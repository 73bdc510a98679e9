"""Forward passes of a fixed number of crops, of whatever images are there."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from seg.data.preprocess import normalise
from seg.predict.tiling import ImageCrops, Mixing

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
BF16_INSTRUCTIONS = ("amx_bf16", "avx512_bf16", "avx_ne_convert", "bf16")
"""As torch.cpu.get_capabilities calls them: of x86-64, and the last of ARM."""
Part = tuple[ImageCrops, slice]
"""Some crops of an image."""
Watch = Callable[[Sequence[Part]], AbstractContextManager[object]]
"""Called with what a pass is made of; is entered for its length."""


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Autocast to bf16 or fp16; with float32 a context that changes nothing.

    For the whole process float32 is float32: torch lets a GPU's convolutions compute it in TF32, of which
    the products have 10 bits in place of 23.
    """
    torch.backends.cudnn.allow_tf32 = False
    dtype = DTYPES.get(precision, torch.bfloat16)
    return torch.autocast(device.type, dtype, enabled=precision in DTYPES)


def has_fast_bf16() -> bool:
    """Whether this CPU has instructions for bf16; torch's own rule takes AVX-512 for enough.

    Where it has none, a step of interferogram-small takes 3.5 times as long as in float32 with AVX-512, and
    14 times without (measured).
    """
    return any(torch.cpu.get_capabilities().get(name) for name in BF16_INSTRUCTIONS)


class Passes:
    """A model's forward passes.

    A mixed pass has exactly `batch` crops, of several images, filled up where there are no more: a crop's
    logits hang on nothing but the crop and that number (tests/seg/predict/test_passes.py). A pass of one
    image has as many crops as that image's size decides, `batch` at most.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        batch: int,
        device: torch.device,
        precision: str = "float32",
        mixing: Mixing = "mixed",
    ) -> None:
        self.model, self.batch, self.device, self.precision = model.eval(), batch, device, precision
        self.mixing = mixing
        self.takes_frames = getattr(model, "TAKES_FRAMES", False)
        self.watch: Watch = lambda _: nullcontext()

    @torch.inference_mode()
    def logits(self, images: Iterable[ImageCrops | None]) -> Iterator[Tensor]:
        """Logits of each crop of each image in turn, float32 [C, crop height, crop width].

        None among the images: none is there just now, so a pass that waits for more is filled up.
        """
        waiting: list[Part] = []
        count = 0
        for image in images:
            size, done = self._size(image), 0
            while image is not None and done < len(image.tiles):
                taken = min(size - count, len(image.tiles) - done)
                waiting.append((image, slice(done, done + taken)))
                done, count = done + taken, count + taken
                if count == size:
                    yield from self._forward(waiting, size)
                    waiting, count = [], 0
            if waiting and (image is None or self.mixing == "image"):
                yield from self._forward(waiting, size)
                waiting, count = [], 0
        if waiting:
            yield from self._forward(waiting, self.batch)

    def _size(self, image: ImageCrops | None) -> int:
        """Crops of a pass. Of one image in as few passes as `batch` allows, of one size: 5 by 4 are 3 and 3.

        There the image's own size decides, not its neighbours. One crop by 4 is one, not four.
        """
        if image is None or self.mixing == "mixed":
            return self.batch
        crops = len(image.grid.tiles)
        return -(-crops // -(-crops // self.batch))

    def _forward(self, parts: Sequence[Part], size: int) -> Iterator[Tensor]:
        with self.watch(parts):
            seen = [self._normalised(image, place) for image, place in parts]
            if not self.takes_frames:
                seen = [crops[:, -1] for crops in seen]
            count = sum(map(len, seen))
            if count < size:
                seen.append(seen[-1][-1:].expand(size - count, *seen[-1].shape[1:]))
            layout = torch.contiguous_format if self.takes_frames else torch.channels_last
            crops = torch.cat(seen).contiguous(memory_format=layout)
            with autocast(self.device, self.precision):
                logits = self.model(crops)
            found = logits.float()[:count]
        yield from found

    def _normalised(self, image: ImageCrops, place: slice) -> Tensor:
        """Crops as the model sees them, float32 [N, K, channels, height, width] on the device."""
        crops = torch.from_numpy(_writeable(image.cut(place))).to(self.device)
        means, deviations = (
            torch.from_numpy(values[None]).to(self.device) for values in (image.means, image.deviations)
        )
        return normalise(crops, means, deviations)


def _writeable(pixels: NDArray[np.generic]) -> NDArray[np.generic]:
    """The same; a copy where they lie in an object store, which nobody may write."""
    return pixels if pixels.flags.writeable else pixels.copy()
