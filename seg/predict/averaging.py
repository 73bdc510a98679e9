"""Several networks, or several views of a crop, as one network: the mean of their probabilities."""

from collections.abc import Sequence
from itertools import product
from math import log
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from seg.model_card import ModelCard
from seg.model_file import load_model
from seg.recipe import Tta


class View(NamedTuple):
    """A crop turned over; the eight of them are the symmetries of the square, the dihedral group D4."""

    transposed: bool
    """Rows become columns, before anything else."""
    flipped: tuple[int, ...]
    """Axes, counted from the end, along which it is mirrored then."""

    def see(self, crops: Tensor) -> Tensor:
        """Crops [..., h, w] so turned over; [..., w, h] where transposed."""
        turned = crops.transpose(-1, -2) if self.transposed else crops
        return turned.flip(self.flipped) if self.flipped else turned

    def restore(self, maps: Tensor) -> Tensor:
        """What a network says of such crops, turned back."""
        turned = maps.flip(self.flipped) if self.flipped else maps
        return turned.transpose(-1, -2) if self.transposed else turned


FLIPS: tuple[tuple[int, ...], ...] = ((), (-2,), (-1,), (-2, -1))
VIEWS: dict[Tta, tuple[View, ...]] = {
    "none": (View(False, ()),),
    "flips": tuple(View(False, flipped) for flipped in FLIPS),
    "d4": tuple(View(transposed, flipped) for transposed, flipped in product((False, True), FLIPS)),
}


class Averaged(nn.Module):
    """The mean over networks and views of the softmax, as its logarithm: what follows takes it for logits.

    Softmax and argmax of log p are p and its argmax, so that blending, upsampling and counting stay as they
    are. Each crop's value hangs on that crop alone, as the networks' own do.
    """

    def __init__(self, models: Sequence[nn.Module], tta: Tta = "none") -> None:
        super().__init__()
        self.models, self.views = nn.ModuleList(models), VIEWS[tta]
        self.TAKES_FRAMES = getattr(models[0], "TAKES_FRAMES", False)

    def forward(self, crops: Tensor) -> Tensor:
        """Log of the mean probability, float32 [N, C, h, w], of crops [N, channels, h, w] or of clips."""
        total: Tensor | None = None
        layout = torch.channels_last if crops.ndim == 4 else torch.contiguous_format
        for view in self.views:
            seen = view.see(crops).contiguous(memory_format=layout)
            for model in self.models:
                found = view.restore(cast("Tensor", model(seen)).float().log_softmax(1))
                total = found if total is None else torch.logaddexp(total, found)
        assert total is not None, "there is a network, and a view"
        return (total - log(len(self.views) * len(self.models))).contiguous()


def average(models: Sequence[nn.Module], tta: Tta) -> nn.Module:
    """The mean over networks and views, which has them as parts; one network in one view is left itself."""
    return models[0] if len(models) == 1 and tta == "none" else Averaged(models, tta)


def load_averaged(
    files: Sequence[Path], device: torch.device, tta: Tta = "none"
) -> tuple[nn.Module, ModelCard]:
    """The networks of model files as one, and the first file's card; RequestError: as of `load_model`."""
    models, cards = zip(*(load_model(file, device) for file in files), strict=True)
    return average(models, tta), cards[0]
