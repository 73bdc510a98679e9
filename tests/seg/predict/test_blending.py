import pytest
import torch

from seg.predict.tiling import place_spans
from seg.predict.upsampling import blend_tiles, blending_weights

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("length", "crop", "halo"), [(500, 96, 32), (97, 64, 16), (40, 64, 16), (2000, 512, 64)]
)
def test_weights_add_up_to_one_and_are_highest_in_a_windows_middle(length: int, crop: int, halo: int) -> None:
    spans = place_spans(length, crop, halo)
    weights = blending_weights(spans, crop, CPU)
    total = torch.zeros(spans[-1].start + crop)
    for span, weight in weights.items():
        assert weight.min() > 0
        total[span.start : span.start + crop] += weight
    torch.testing.assert_close(total, torch.ones_like(total))
    if len(spans) > 2:  # the neighbour counts as much where both are as far from their middles
        first, second = spans[:2]
        middle = (second.start + crop + first.start) / 2
        assert weights[first][int(middle) - 1] > 0.5 > weights[second][int(middle) - 1 - second.start]


def test_windows_that_agree_are_not_changed_by_blending_and_strips_follow_each_other() -> None:
    logits = torch.randn(3, 160, 128, generator=torch.Generator().manual_seed(0))
    rows, columns = place_spans(150, 64, 16), place_spans(120, 64, 16)
    windows = (
        logits[:, row.start : row.start + 64, column.start : column.start + 64]
        for row in rows
        for column in columns
    )
    strips = list(blend_tiles(windows, blending_weights(rows, 64, CPU), blending_weights(columns, 64, CPU)))
    assert [first for first, _ in strips] == [row.start for row in rows]
    torch.testing.assert_close(torch.cat([strip for _, strip in strips], dim=1), logits.softmax(0))
