"""Pixels counted by truth and prediction, on the device where the prediction is; ratios: seg/metrics.py."""

import cv2
import numpy as np
import torch
from cv2.typing import MatLike
from numpy.typing import NDArray
from torch import Tensor

CHUNK_PX = 1 << 18
"""Pixels that are counted together on a CPU: truth, prediction and what is made of them stay in its cache."""


def confusion_matrix(truth: NDArray[np.uint8], prediction: Tensor, num_classes: int) -> Tensor:
    """Count pixels by truth (row) and prediction (column), int64 [C, C]; truth 255 is not counted.

    truth, prediction: uint8 class ids [H, W], the prediction's on any device, where they are counted; ids
    are checked once, where labels are read. The sum over crops, images or workers is the matrix of all
    their pixels. ValueError: shapes differ.
    """
    if truth.shape != prediction.shape:
        raise ValueError(f"truth is {truth.shape} but prediction is {tuple(prediction.shape)}")
    if num_classes == 2 and prediction.device.type == "cpu":
        return _count_two_classes(truth, prediction.numpy())
    rows = num_classes + 1  # the last row takes the ignored pixels: boolean indexing is 30x slower (CPU)
    dtype = torch.uint8 if rows * num_classes <= 256 else torch.int32
    true = torch.tensor(truth, device=prediction.device).clamp(max=num_classes).to(dtype)
    codes = true * num_classes + prediction
    return torch.bincount(codes.flatten(), minlength=rows * num_classes).view(rows, -1)[:-1]


def _count_two_classes(truth: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> Tensor:
    """The same for classes 0 and 1 on a CPU, from sums over what is not ignored: 6x faster than bincount.

    A label is read where it lies, in a pack's map: with a copy of it first it takes a quarter more.
    """
    counted = marked = positive = differing = 0
    rows = max(1, CHUNK_PX // truth.shape[1])
    for first in range(0, truth.shape[0], rows):
        true, predicted = (ids[first : first + rows] for ids in (truth, prediction))
        counted += true.size
        if cv2.norm(true, cv2.NORM_INF) == 255:
            _, known = cv2.threshold(true, 254, 1, cv2.THRESH_BINARY_INV)
            true, predicted = (cv2.bitwise_and(ids, known) for ids in (true, predicted))
            counted += _sum(known) - known.size
        marked += _sum(true)
        positive += _sum(predicted)
        differing += int(cv2.norm(true, predicted, cv2.NORM_L1))
    hits = (marked + positive - differing) // 2
    misses, inventions = marked - hits, positive - hits
    return torch.tensor([[counted - marked - inventions, inventions], [misses, hits]])


def _sum(ids: MatLike) -> int:
    """The sum of zeros and ones: takes 0.7 of the time of countNonZero."""
    return int(cv2.sumElems(ids)[0])


def count_classes(ids: Tensor, num_classes: int) -> Tensor:
    """Count pixels by class, int64 [C], of uint8 class ids, which all are below C."""
    if num_classes == 2 and ids.device.type == "cpu":  # 20x faster than bincount
        ones = _sum(ids.contiguous().numpy().reshape(1, -1))
        return torch.tensor([ids.numel() - ones, ones])
    return torch.bincount(ids.flatten(), minlength=num_classes)
