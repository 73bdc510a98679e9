import numpy as np
import pytest

from seg.check.meaning import Meaning, read_meaning

NAMES = ("background", "cell", "dust")
ONE = ("background", "object")
MANY = tuple((number, 1) for number in range(2, 40))


@pytest.mark.parametrize(
    ("classes", "stored", "meaning"),
    [
        ((), (0, 1), Meaning(classes=ONE)),
        ((), (0, 1, 255), Meaning(classes=ONE)),
        ((), (0, 255), Meaning(classes=ONE, foreground=255)),
        ((), (255,), Meaning(classes=ONE, foreground=255)),
        ((), (0, 7), Meaning(classes=ONE, foreground=7)),
        ((), (0, 7, 255), Meaning(classes=ONE, label_map=((7, 1),))),
        ((), (0, 1, 2, 3), Meaning(classes=ONE, label_map=((2, 1), (3, 1)), joined=(1, 2, 3))),
        ((), tuple(range(40)), Meaning(classes=ONE, label_map=MANY, joined=tuple(range(1, 40)))),
        ((), (0,), Meaning(classes=ONE)),
        (NAMES, (0, 1, 2, 255), Meaning(classes=NAMES)),
        (NAMES, (0, 2), Meaning(classes=NAMES)),
        (NAMES, (0, 255), Meaning(classes=NAMES, label_map=((255, 1),))),
        (NAMES, (0, 1, 3, 9), Meaning(classes=NAMES, unknown=(3, 9))),
        (("road",), (0, 255), Meaning(classes=("road",))),
    ],
)
def test_ids_mean_what_names_and_masks_say(
    classes: tuple[str, ...], stored: tuple[int, ...], meaning: Meaning
) -> None:
    assert read_meaning(classes, stored) == meaning


def test_what_a_training_was_told_holds() -> None:
    assert read_meaning((), (0, 255), ()) == Meaning(classes=ONE)  # 255 stays ignored
    told = read_meaning(NAMES, (0, 4, 255), ((4, 255),))
    assert (told.label_map, told.unknown) == (((4, 255),), ())
    assert read_meaning((), (0, 1, 2), foreground=2) == Meaning(classes=ONE, foreground=2)


def test_boxes_have_no_map() -> None:
    assert read_meaning((), (0, 1, 2), masks=False) == Meaning(classes=ONE, unknown=(2,))


def test_pixels_are_counted_by_class_as_in_a_loop() -> None:
    meaning = Meaning(classes=NAMES, label_map=((9, 1), (5, 255)))
    stored = np.random.default_rng(0).integers(0, 100, 256)
    known = {0: 0, 1: 1, 2: 2, 9: 1}
    expected = [sum(int(stored[number]) for number, kind in known.items() if kind == k) for k in range(3)]
    assert meaning.count(stored).tolist() == expected
    assert meaning.count_ignored(stored) == stored[5] + stored[255]
    foreground = Meaning(classes=ONE, foreground=255)
    assert foreground.count(stored).tolist() == [stored[:255].sum(), stored[255]]
    assert foreground.count_ignored(stored) == 0
