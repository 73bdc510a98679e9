"""A network judged on images whose truth is known: pixels counted at own size, and the recipe's loss."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from math import nan

import torch
from torch import Tensor

from seg.data.preprocess import Statistics
from seg.pack.pack import PackedImage
from seg.predict.confusion import confusion_matrix
from seg.predict.predictor import Piece, Predictor
from seg.predict.tiling import ImageCrops
from seg.train.learner import Ranks
from seg.train.losses import Loss, mean_loss


class LossTotal:
    """A loss of all pixels that it was shown, as though they were one batch.

    A pixel loss is the mean over all counted pixels, each weighing what its true class does; a region loss
    that over all regions of all cores. It is taken where training takes it, at working size, and of a model
    with several outputs from the one that predicts. Sums are float64, so that their order does not show.
    """

    def __init__(self, loss: Loss, device: torch.device) -> None:
        self.loss = loss
        self.total = torch.zeros(2, len(loss.parts), dtype=torch.float64, device=device)

    def add(self, truth: Tensor, logits: Tensor) -> None:
        """Take in a rectangle. truth: uint8 ids [h, w], 255 ignored; logits: float32 [C, h, w]."""
        sums, weights = self.loss(logits[None], truth[None])
        self.total += torch.stack([sums.double(), weights])

    def mean(self, ranks: Ranks) -> float:
        """The loss over all ranks, the same on each; NaN where nothing counted."""
        sums, weights = ranks.sum(self.total.clone())
        return float(mean_loss(sums, weights)) if weights.any() else nan


def count_confusion(
    predictor: Predictor,
    clips: Iterable[list[PackedImage]],
    fitted: Statistics | None,
    num_classes: int,
    loss: LossTotal | None = None,
    on_image: Callable[[int], None] = lambda count: None,
) -> Tensor:
    """Confusion matrix of each clip's last image at own size, int64 [C, C] on the predictor's device.

    fitted: statistics to use instead of each image's own. loss: takes in these images too. on_image: called
    after each image with how many they are by then.
    """
    total = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=predictor.device)
    predicted = predict_clips(predictor, clips, fitted, keep_logits=loss is not None)
    for count, (image, pieces) in enumerate(predicted, start=1):
        assert image.own_mask is not None, "a validation pack holds masks at own size"
        for piece in pieces:  # at once, while a CPU has them in its cache
            total += confusion_matrix(image.own_mask[piece.own], piece.ids, num_classes)
            if loss is not None and piece.logits is not None:
                truth = torch.tensor(image.mask[piece.working], device=predictor.device)
                loss.add(truth, piece.logits)
        on_image(count)
    return total


def predict_clips(
    predictor: Predictor,
    clips: Iterable[list[PackedImage]],
    fitted: Statistics | None,
    *,
    keep_logits: bool = False,
) -> Iterator[tuple[PackedImage, Iterator[Piece]]]:
    """Each clip's last image in turn, with its pieces."""
    images: deque[PackedImage] = deque()

    def crop() -> Iterator[ImageCrops]:
        for clip in clips:
            images.append(clip[-1])
            yield predictor.crop([frame.frame(fitted) for frame in clip], clip[-1].own_size)

    for _, pieces in predictor.predict_stream(crop(), keep_logits=keep_logits):
        yield images.popleft(), pieces
