from collections import Counter

import numpy as np
import pytest
import torch

from seg.predict.confusion import CHUNK_PX, confusion_matrix, count_classes

# 15 and 16: the last number of classes whose codes fit a uint8, and the first that does not
CLASSES = [1, 2, 11, 15, 16, 19, 254, 255]


@pytest.mark.parametrize("num_classes", CLASSES)
@pytest.mark.parametrize("part", [1, 37, 64])
def test_matrices_of_parts_add_up_to_the_whole(num_classes: int, part: int) -> None:
    seeded = torch.Generator().manual_seed(0)
    truth, prediction = torch.randint(num_classes, (2, 64, 48), generator=seeded, dtype=torch.uint8)
    truth[:, ::7] = 255
    parts = zip(truth.split(part), prediction.split(part), strict=True)
    total = torch.stack([confusion_matrix(t.numpy(), p, num_classes) for t, p in parts]).sum(0)
    seen = Counter(zip(truth.flatten().tolist(), prediction.flatten().tolist(), strict=True))
    assert total.dtype == torch.int64
    assert total.tolist() == [[seen[t, p] for p in range(num_classes)] for t in range(num_classes)]  # exactly


@pytest.mark.parametrize("num_classes", [2, 19])
def test_the_extreme_ids_are_counted_where_they_belong(num_classes: int) -> None:
    last = num_classes - 1
    truth = torch.tensor([[0, last, 255, 255, last]], dtype=torch.uint8)
    prediction = torch.tensor([[last, 0, 0, last, last]], dtype=torch.uint8)
    matrix = confusion_matrix(truth.numpy(), prediction, num_classes)
    assert (matrix[0, last], matrix[last, 0], matrix[last, last], matrix.sum()) == (1, 1, 1, 3)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_views_count_like_copies(num_classes: int) -> None:
    ids = torch.arange(60, dtype=torch.uint8).view(6, 10) % num_classes
    for truth, prediction in (
        (ids.T, ids.T.flip(0)),
        (ids[1:5, 2:9], ids[2:, 1:8]),
        (ids[:, :9:3], ids[:, 1::3]),
    ):
        copies = confusion_matrix(truth.contiguous().numpy(), prediction.contiguous(), num_classes)
        assert torch.equal(confusion_matrix(truth.numpy(), prediction, num_classes), copies)


@pytest.mark.parametrize("ignored", [slice(0, 0), slice(1, 40), slice(CHUNK_PX // 700 - 1, None)])
def test_two_classes_are_counted_alike_in_every_chunk(ignored: slice) -> None:
    seeded = torch.Generator().manual_seed(1)
    truth, prediction = torch.randint(
        2, (2, 2 * CHUNK_PX // 700 + 77, 700), generator=seeded, dtype=torch.uint8
    )
    truth[ignored, 1::2] = 255
    seen = [[int(((truth == t) & (prediction == p)).sum()) for p in range(2)] for t in range(2)]
    assert confusion_matrix(truth.numpy(), prediction, 2).tolist() == seen


@pytest.mark.parametrize("num_classes", CLASSES)
def test_classes_are_counted_as_they_occur(num_classes: int) -> None:
    seeded = torch.Generator().manual_seed(0)
    ids = torch.randint(num_classes, (48, 64), generator=seeded, dtype=torch.uint8)
    for view in (ids, ids.T, ids[:, ::3], ids[:1, :1]):
        seen = Counter(view.flatten().tolist())
        assert count_classes(view, num_classes).tolist() == [seen[k] for k in range(num_classes)]


def test_nothing_to_count_gives_zeros() -> None:
    ignored = torch.full((4, 4), 255, dtype=torch.uint8)
    assert confusion_matrix(ignored.numpy(), torch.zeros_like(ignored), 3).tolist() == [[0] * 3] * 3


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match=r"truth is \(2, 3\) but prediction is \(3, 2\)"):
        confusion_matrix(np.zeros((2, 3), np.uint8), torch.zeros(3, 2, dtype=torch.uint8), 2)
