"""Weights of classes, made from how often each occurs in the training images."""

import numpy as np
from numpy.typing import NDArray

from seg.errors import RequestError


def median_frequency_weights(pixels: NDArray[np.int64]) -> tuple[float, ...]:
    """Weights that balance the classes, in id order (Eigen and Fergus 2015, arXiv:1411.4734, section 6.3.2).

    A class's frequency is its pixels over all pixels of the images that it appears in; its weight is the
    median frequency over its own, so rare classes weigh above 1 and frequent ones below.
    pixels: of each class in each training image [images, C]; ignored pixels are left out, unlike the paper,
    which has none.
    RequestError, naming the ids: a class that no image has, since it has no frequency.
    """
    by_class = pixels.sum(0)
    absent = np.flatnonzero(by_class == 0)
    if absent.size:
        raise RequestError(
            f"class_weights median_frequency: no training image has a pixel of class id "
            f"{', '.join(map(str, absent))}; give class_weights as numbers, one a class"
        )
    of_images = np.where(pixels > 0, pixels.sum(1, keepdims=True), 0).sum(0)
    frequencies = by_class / of_images
    return tuple((np.median(frequencies) / frequencies).tolist())
