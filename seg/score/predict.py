"""Prepared images through the model, several in a pass; counted where the logits are."""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch

from seg.predict.averaging import load_averaged
from seg.predict.passes import Part
from seg.predict.predictor import Canvas, Piece, PixelCounter, Predictor, Rectangle
from seg.predict.tiling import ImageCrops
from seg.score.blame import MODEL, InFlight
from seg.score.read import ScorerSettings
from seg.score.work import Edges, Pieces, Predicted, Share, Work


class ImagePredictor:
    """The middle stage: crops to ids, confidence and counts, on the device that it is told; one thread's."""

    def __init__(self, settings: ScorerSettings, device: str) -> None:
        """`device`: cpu or cuda. RequestError: the model file cannot be used."""
        torch.set_num_threads(settings.threads)
        self.device = torch.device(device)
        network, self.card = load_averaged(settings.models, self.device, settings.tta)
        self.predictor = Predictor(
            network,
            settings.tiling,
            device=self.device,
            batch=settings.batch,
            precision=settings.precision,
            blend=settings.blend,
            mixing=settings.mixing,
        )
        self.predictor.passes.watch = self._in_pass
        self.num_classes = len(self.card.classes)
        self._works: dict[ImageCrops, tuple[Work, InFlight]] = {}
        self._elsewhere_s = 0.0
        """In passes, whose time is their images' already, and waiting for images."""

    def predict(self, works: Iterable[tuple[Work, InFlight] | None]) -> Iterator[Work]:
        """Predict images that have crops, each with its notes, in order; None: none is there just now.

        What was raised is of the images `in_hand`; those that come after are for another call.
        """
        self._works.clear()
        for image, pieces in self.predictor.predict_stream(self._crops(works)):
            work, notes = self._works[image]
            self._predict(work, image, pieces)
            del self._works[image]
            notes.wait(work.order.image)
            yield work

    @property
    def in_hand(self) -> list[Work]:
        """Images that were begun and are not predicted."""
        return [work for work, _ in self._works.values()]

    def is_sound(self) -> bool:
        """Whether the device still computes: an error of CUDA stays until its process ends."""
        try:
            return torch.ones(2, device=self.device).sum().item() == 2
        except RuntimeError:
            return False

    def _crops(self, works: Iterable[tuple[Work, InFlight] | None]) -> Iterator[ImageCrops | None]:
        asked = time.perf_counter()
        for found in works:
            self._elsewhere_s += time.perf_counter() - asked
            if found is not None:
                assert found[0].crops is not None, "it was read"
                self._works[found[0].crops] = found
            yield found and found[0].crops
            asked = time.perf_counter()

    def _predict(self, work: Work, image: ImageCrops, pieces: Iterator[Piece]) -> None:
        started, elsewhere_s = time.perf_counter(), self._elsewhere_s
        if work.share is None:
            work.predicted = self._predict_whole(work, image, pieces)
        else:
            work.pieces = self._predict_share(work, work.share, pieces)
        work.crops = None
        work.seconds["model"] += time.perf_counter() - started - (self._elsewhere_s - elsewhere_s)

    def _predict_whole(self, work: Work, image: ImageCrops, pieces: Iterator[Piece]) -> Predicted:
        canvas = Canvas(image.grid, self.device, probability=True)
        counter = PixelCounter(self.num_classes, self.device, work.truth)
        for piece in pieces:
            canvas.add(piece)
            counter.add(piece)
        whole = canvas.finish()
        assert whole.probability is not None, "it was asked for"
        ids, probability = whole.ids.cpu().numpy(), whole.probability.cpu().numpy()
        return Predicted(ids, probability, whole.confidence, counter.counts())

    def _predict_share(self, work: Work, share: Share, pieces: Iterator[Piece]) -> Pieces:
        counter = PixelCounter(self.num_classes, self.device, work.truth, share.first_row)
        found = list(pieces)
        for piece in found:
            counter.add(piece)
        return Pieces(
            own=tuple(_edges(piece.own) for piece in found),
            working=tuple(_edges(piece.working) for piece in found),
            sums=tuple(float(piece.confidence_sum()) for piece in found),
            ids=torch.cat([piece.ids.flatten() for piece in found]).cpu().numpy(),
            probability=torch.cat([piece.probability.flatten() for piece in found]).cpu().numpy(),
            counts=counter.counts(),
        )

    @contextmanager
    def _in_pass(self, parts: Sequence[Part]) -> Iterator[None]:
        """Note the images of a pass, and share its time among them by their crops.

        What fills up a mixed pass is nobody's: an image that is alone takes what it does in company.
        """
        for image, place in parts:
            if place.start == 0:
                work, notes = self._works[image]
                notes.enter(work.order.image, MODEL)
        started = time.perf_counter()
        yield
        seconds = time.perf_counter() - started
        self._elsewhere_s += seconds
        passes, crops = self.predictor.passes, sum(place.stop - place.start for _, place in parts)
        size = passes.batch if passes.mixing == "mixed" else crops
        for image, place in parts:
            self._works[image][0].seconds["model"] += seconds * (place.stop - place.start) / size


def _edges(place: Rectangle) -> Edges:
    down, across = place
    return down.start, down.stop, across.start, across.stop
