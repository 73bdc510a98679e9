"""What a trained model proposes: what it predicts of an image, object by object."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from seg.data.background import Backgrounds
from seg.data.frames import Frame, FrameReader, as_clip
from seg.data.images import Pixels, split_page
from seg.data.listing import Sequences
from seg.errors import ImageError
from seg.label.shapes import Shapes, find_shapes
from seg.predict.predictor import open_predictor


class Proposer:
    """Proposes objects for the images of an archive with one model, on the GPU where there is one."""

    def __init__(
        self,
        model_file: Path,
        archive: Path,
        images: Sequence[str],
        *,
        read_image: Callable[[str], Pixels],
        backgrounds: Path,
        min_object_px: int,
    ) -> None:
        """`backgrounds`: a folder to keep them in; `min_object_px`: fewer own pixels are no object.

        RequestError: it is no model file; the model's sequence does not match the images' names.
        """
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.predictor, self.card = open_predictor(model_file, device)
        self.archive, self.read_image, self.min_object_px = archive, read_image, min_object_px
        self.sequences = Sequences(images, self.card.sequence)
        self.frames = FrameReader(
            self.card.preprocessing,
            self.card.statistics,
            Backgrounds(self.card.preprocessing, backgrounds, self._frames_of),
        )

    def propose(self, name: str, image: Pixels) -> Shapes:
        """The objects that the model sees in the image of this name, as read.

        A sequence model sees the frames before it too. UnsupportedImage: fitted on another bit depth.
        """
        frame = self.frames.read(image, self.sequences.sequence(name))
        earlier = [self._neighbour(near) for near in self.sequences.clip(name, self.card.frames)[:-1]]
        size = (image.shape[0], image.shape[1])
        ids = self.predictor.predict_frames(as_clip(earlier, frame), size).ids.cpu().numpy()
        return find_shapes(ids, len(self.card.classes), self.min_object_px)

    def _neighbour(self, name: str) -> Frame | None:
        try:
            return self.frames.read(self.read_image(name), self.sequences.sequence(name))
        except ImageError:
            return None

    def _frames_of(self, sequence: str) -> list[tuple[str, Path]]:
        return [(name, self.archive / split_page(name)[0]) for name in self.sequences.frames(sequence)]
