import numpy as np
import pytest

from seg.alarms import find_alarms

TWO, THREE = ("background", "cell"), ("background", "cell", "dust")


def alarms(
    matrix: list[list[int]],
    predicted: list[int] | None = None,
    trained: tuple[float, ...] = (),
    classes: tuple[str, ...] = (),
) -> list[str]:
    pixels = None if predicted is None else np.array(predicted, np.int64)
    names = classes or (TWO if len(matrix) == 2 else THREE)
    return find_alarms(names, np.array(matrix, np.int64), pixels, trained)


def test_a_class_with_truth_that_is_never_predicted_is_named_with_its_pixels() -> None:
    assert alarms([[90, 0], [1234, 0]]) == ["the model predicts no pixel of: cell (1,234 in the labels)"]
    found = ["the model predicts no pixel of: cell (6 in the labels), dust (7 in the labels)"]
    assert alarms([[9, 0, 0], [6, 0, 0], [7, 0, 0]]) == found
    assert alarms([[9, 3, 0], [6, 1, 0], [7, 0, 0]]) == [
        "the model predicts no pixel of: dust (7 in the labels)"
    ]


@pytest.mark.parametrize(
    ("matrix", "predicted"),
    [([[90, 9], [1, 10]], None), ([[90, 9], [1, 10]], [95, 30]), ([[0, 0], [0, 0]], [90, 10])],
)
def test_a_model_that_predicts_every_class_raises_no_alarm(
    matrix: list[list[int]], predicted: list[int] | None
) -> None:
    assert alarms(matrix, predicted) == alarms(matrix, predicted, (0.9, 0.1)) == []


def test_one_class_alone_is_an_alarm_without_labels_too_and_where_labels_show_nothing_else() -> None:
    line = ["the model predicts nothing but background"]
    assert alarms([[0, 0], [0, 0]], [70, 0]) == line
    assert alarms([[70, 0], [0, 0]]) == line
    assert find_alarms(("all",), np.array([[70]], np.int64)) == []
    assert alarms([[0, 0], [0, 0]], [0, 0]) == alarms([[0, 0], [0, 0]], [0, 0], (0.9, 0.1)) == []


def test_a_share_more_than_five_times_the_training_s_either_way_is_an_alarm() -> None:
    nothing = [[0, 0], [0, 0]]
    assert alarms(nothing, [2, 98], (0.93, 0.07)) == [
        "98 % of pixels are cell, 7 % in training; 2 % are background, 93 % in training"
    ]
    assert alarms(nothing, [650, 350], (0.93, 0.07)) == []  # exactly five times
    assert alarms(nothing, [649, 351], (0.93, 0.07)) == ["35 % of pixels are cell, 7 % in training"]
    assert alarms(nothing, [986, 14], (0.93, 0.07)) == []
    assert alarms(nothing, [9861, 139], (0.93, 0.07)) == ["1.4 % of pixels are cell, 7 % in training"]
    assert alarms(nothing, [999999, 1], (0.93, 0.07)) == ["below 0.01 % of pixels are cell, 7 % in training"]
    assert alarms(nothing, [9, 0], (0.93, 0.07))[1:] == ["0 % of pixels are cell, 7 % in training"]


def test_a_class_that_was_not_in_training_or_is_rare_in_both_is_weighed_by_its_share() -> None:
    nothing = [[0] * 3] * 3
    assert alarms(nothing, [900, 80, 20], (0.93, 0.07, 0)) == ["2 % of pixels are dust, 0 % in training"]
    assert alarms(nothing, [10**6, 10**5, 1], (0.93, 0.07, 5e-5)) == []


def test_labels_that_bear_a_share_out_clear_the_model_and_others_do_not() -> None:
    right, wrong = [[10, 0], [0, 90]], [[2, 91], [0, 7]]
    assert alarms(right, None, (0.95, 0.05)) == []
    assert alarms([[96, 0], [0, 4]], [9996, 4], (0.5, 0.5)) == [  # the labelled ones are not all
        "0.04 % of pixels are cell, 50 % in training"
    ]
    assert alarms(wrong, None, (0.93, 0.07))[0].startswith("98 % of pixels are cell, 7 % in training")


def test_many_classes_are_counted_past_the_fifth() -> None:
    classes = tuple("abcdefgh")
    matrix = np.zeros((8, 8), np.int64)
    matrix[:, 0] = 3
    (line,) = find_alarms(classes, matrix)
    assert line.endswith("f (3 in the labels), 2 more")
