from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from seg.checkpoint import load_model
from seg.data.preprocess import choose_statistics, preprocess
from seg.labelling.proposals import Proposer, find_objects
from seg.predict import Predictor
from tests.conftest import draw_disc
from tests.small import write_model

MASKS = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(0, 3))


def objects_by_scipy(ids: np.ndarray, least_px: int) -> list[tuple[int, int, int, int, int]]:
    """Class, left, top, right, bottom of each 8-connected component, by another library."""
    found = []
    for kind in range(1, 4):
        components, _ = scipy.ndimage.label(ids == kind, np.ones((3, 3)))
        for place, (rows, columns) in enumerate(scipy.ndimage.find_objects(components), start=1):
            if (components == place).sum() >= least_px:
                found.append((kind, columns.start, rows.start, columns.stop, rows.stop))
    return sorted(found)


@given(MASKS, st.sampled_from([1, 2, 5]))
def test_objects_are_the_connected_components_of_enough_pixels(ids: np.ndarray, least_px: int) -> None:
    boxes = find_objects(ids, 4, least_px)
    found = [(box.kind, box.left, box.top, box.right, box.bottom) for box in boxes]
    assert sorted(found) == objects_by_scipy(ids, least_px)
    assert found == sorted(found, key=lambda box: (box[0], box[2], box[1]))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_model_proposes_boxes_around_what_it_predicts(tmp_path: Path, dtype: type) -> None:
    file = write_model(tmp_path / "model.safetensors", classes=("background", "cell", "dust"))
    gray, _ = draw_disc((97, 130), np.random.default_rng(5))
    image = gray.astype(dtype) * np.asarray(np.iinfo(dtype).max // 255, dtype)
    model, card = load_model(file)
    working = preprocess(image, card.preprocessing)
    statistics = choose_statistics(working, card.preprocessing, card.statistics)
    predictor = Predictor(model, card.tiling, batch=1, device=next(model.parameters()).device)
    ids = predictor.predict(working, statistics, (97, 130)).ids.numpy()
    boxes = Proposer(file, 30).propose_boxes(image)
    found = [(box.kind, box.left, box.top, box.right, box.bottom) for box in boxes]
    assert sorted(found) == objects_by_scipy(ids, 30)
    assert {box.kind for box in boxes} == {1, 2}
