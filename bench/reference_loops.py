"""The reference systems' own training loops, written plainly from their descriptions.

Model, loss, optimiser, batch, crop size and preprocessing are those of the recipe that ours trains, so that
only the loops differ. Each crop's image is read, decoded and resized anew, in an order shuffled each epoch.
No description mentions less than float32: that is the precision of the recipe they get. Where a description
is silent the faster way is taken: OpenCV, as many loader processes as cores, which stay from epoch to epoch,
no step of augmentation that the recipe does not have.
"""

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from seg.data.layout import Sample
from seg.data.preprocess import preprocess, shrink_mask
from seg.predict.passes import autocast
from seg.recipe import Recipe
from seg.threads import map_ahead
from seg.train.learner import Learner
from seg.train.losses import mean_loss, resize_logits

Batches = Iterable[tuple[Tensor, Tensor]]


class DecodedCrops(Dataset[tuple[Tensor, Tensor]]):
    """Random crops by number, decoded when asked for: float32 [channels, h, w] and truth, uint8 [h, w].

    The interferogram system's "crop ... randomly" from a whole frame, its "downsize", its flips, its advice
    to read by OpenCV; labels are masks, as there ("turn bbox data into binary mask").
    """

    def __init__(self, samples: tuple[Sample, ...], recipe: Recipe) -> None:
        self.recipe = recipe
        self.files = [(str(sample.image), str(sample.label)) for sample in samples] * recipe.crops.per_image

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image_file, mask_file = self.files[index]
        image = cv2.imread(image_file, cv2.IMREAD_UNCHANGED)
        mask = cv2.imread(mask_file, cv2.IMREAD_UNCHANGED)
        assert image is not None, f"{image_file} does not decode"
        assert mask is not None, f"{mask_file} does not decode"
        image = preprocess(np.asarray(image, np.uint8), self.recipe.preprocessing)
        mask = shrink_mask(np.asarray(mask, np.uint8), image.shape[:2])
        height, width = self.recipe.crops.size_px
        top, left = (
            int(torch.randint(side - crop + 1, ()))
            for side, crop in zip(mask.shape, (height, width), strict=True)
        )
        image, mask = (array[top : top + height, left : left + width] for array in (image, mask))
        for axis, wanted in ((0, self.recipe.crops.flip_rows), (1, self.recipe.crops.flip_columns)):
            if wanted and torch.rand(()) < 0.5:
                image, mask = np.flip(image, axis), np.flip(mask, axis)
        pixels = image.astype(np.float32) / 255
        pixels = pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))
        return torch.from_numpy(pixels), torch.from_numpy(np.ascontiguousarray(mask))


class CropSequence:
    """Batches by number, put together one after another in a thread: what Keras makes of a Sequence.

    Its `fit` keeps up to 10 batches ahead of the step, by one thread unless told otherwise.
    """

    def __init__(self, crops: DecodedCrops, batch: int) -> None:
        self.crops, self.batch = crops, batch

    def __len__(self) -> int:
        return len(self.crops) // self.batch

    def batch_of(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Crops by their numbers, one after another."""
        images, masks = zip(*(self.crops[int(index)] for index in chosen), strict=True)
        return torch.stack(images), torch.stack(masks)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.crops))[: len(self) * self.batch]
        with ThreadPoolExecutor(1) as pool:
            yield from map_ahead(pool, self.batch_of, order.split(self.batch), 10)


def open_loader(crops: DecodedCrops, batch: int) -> Batches:
    """A torch DataLoader whose processes read ahead, as the interferogram system advises ("num_workers > 0").

    They are forked from a server that has no threads, as OpenCV may hang in a process forked from one with.
    """
    multiprocessing.set_forkserver_preload(["bench.reference_loops"])
    return DataLoader(
        crops,
        batch,
        shuffle=True,
        drop_last=True,
        num_workers=len(os.sched_getaffinity(0)),
        persistent_workers=True,
        multiprocessing_context="forkserver",
        pin_memory=torch.cuda.is_available(),
    )


def iou_and_dice(logits: Tensor, truth: Tensor, num_classes: int) -> tuple[list[float], list[float]]:
    """By argmax and one_hot, IoU as TP / (TP + FN + FP): the pets system's "for each prediction"."""
    found = F.one_hot(logits.argmax(1), num_classes).bool().flatten(0, 2)
    wanted = F.one_hot(truth.long(), num_classes).bool().flatten(0, 2)
    hits, missed, invented = (found & wanted).sum(0), (~found & wanted).sum(0), (found & ~wanted).sum(0)
    return (hits / (hits + missed + invented)).tolist(), (2 * hits / (2 * hits + missed + invented)).tolist()


def iou(logits: Tensor, truth: Tensor, num_classes: int) -> list[float]:
    """By class, from two masks of it: the camvid system's "Metric: IoU"."""
    found = logits.argmax(1)
    pairs = [(found == class_id, truth == class_id) for class_id in range(num_classes)]
    return [float((mine & theirs).sum() / (mine | theirs).sum()) for mine, theirs in pairs]


def iou_and_accuracy(logits: Tensor, truth: Tensor, num_classes: int) -> tuple[list[float], float]:
    """The interferogram system's "IoU and pixel accuracy"."""
    return iou(logits, truth, num_classes), float((logits.argmax(1) == truth).float().mean())


def nothing(logits: Tensor, truth: Tensor, num_classes: int) -> None:
    """The drinks system measures "at the end of the training loop" alone."""


@dataclass(frozen=True, slots=True)
class ReferenceLoop:
    """What is a system's own: how batches come, and what is measured on each."""

    load: Callable[[DecodedCrops, int], Batches]
    measure: Callable[[Tensor, Tensor, int], object]

    def train_epoch(self, batches: Batches, learner: Learner, num_classes: int) -> float:
        """Train on every batch; the mean loss. Of the learner only model, loss and optimiser are used."""
        model, losses = learner.model.train(), []
        for cpu_images, cpu_truth in batches:  # "for data, target in data loader"
            images, truth = cpu_images.to(learner.device), cpu_truth.to(learner.device)
            with autocast(learner.device, learner.recipe.precision):
                torch.backends.cudnn.allow_tf32 = True  # torch's default, which is not ours
                outputs = model(images)
            loss = mean_loss(*learner.loss(outputs, truth))
            learner.optimizer.zero_grad()
            loss.backward()
            learner.optimizer.step()
            losses.append(loss.item())
            finest = outputs if isinstance(outputs, Tensor) else outputs[0]
            self.measure(resize_logits(finest.detach(), truth), truth, num_classes)
        return sum(losses) / len(losses)


REFERENCE_LOOPS: dict[str, ReferenceLoop] = {
    "interferogram FCN, ICNet": ReferenceLoop(open_loader, iou_and_accuracy),
    "pets FCN-ResNet101": ReferenceLoop(open_loader, iou_and_dice),
    "drinks pyramid FCN": ReferenceLoop(CropSequence, nothing),  # "replication of" a Keras loop
    "camvid U-Net": ReferenceLoop(open_loader, iou),
}
"""By system; all shuffle each epoch, as only the drinks system's description says ("Shuffled per epoch")."""
