"""IoU of many images at once, from the ledger's columns."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def matrix_of(column: pa.ChunkedArray, width: int) -> NDArray[np.int64]:
    """A column of lists of `width` integers, null left out, as int64 [rows, width]."""
    flat = [chunk.flatten().to_numpy() for chunk in column.chunks]
    return np.concatenate([*flat, np.empty(0, np.int64)]).reshape(-1, width)


def hits_and_unions(column: pa.ChunkedArray, num_classes: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pixels of each class that truth and prediction share, and that either has: two int64 [images, C].

    column: confusion matrices; null is left out. Both add up over images, so they are all that IoU needs.
    """
    matrices = matrix_of(column, num_classes**2).reshape(-1, num_classes, num_classes)
    hits = np.diagonal(matrices, axis1=1, axis2=2)
    return hits, matrices.sum(1) + matrices.sum(2) - hits


def class_ious(hits: NDArray[np.number], unions: NDArray[np.number]) -> NDArray[np.float64]:
    """IoU by class, of the arrays' shape; NaN where a class is in neither truth nor prediction."""
    return np.divide(hits, unions, out=np.full(hits.shape, np.nan), where=unions > 0)


def mean_ious(hits: NDArray[np.number], unions: NDArray[np.number]) -> NDArray[np.float64]:
    """Mean IoU over the classes that occur, the arrays' last axis; NaN where none does."""
    present = (unions > 0).sum(-1)
    sums = np.nansum(class_ious(hits, unions), -1)
    return np.divide(sums, present, out=np.full(sums.shape, np.nan), where=present > 0)
