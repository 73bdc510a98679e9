import io
import re
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from seg.data.labels import SAMPLE, draw_sample, map_foreground, refuse_all_ignored
from seg.errors import RequestError


def encode(*ids: int) -> bytes:
    """A mask in which these ids stand in turn."""
    data = io.BytesIO()
    Image.fromarray(np.resize(np.array(ids, np.uint8), (12, 20))).save(data, "PNG")
    return data.getvalue()


def reader(masks: dict[str, bytes]) -> tuple[list[str], Callable[[str], bytes]]:
    return list(masks), masks.__getitem__


def test_masks_of_0_and_255_alone_are_refused_with_the_option_that_mends_it() -> None:
    masks = reader({"a.png": encode(0, 255), "b.png": encode(0), "c.png": b"no mask"})
    with pytest.raises(RequestError) as refused:
        refuse_all_ignored("data x", *masks, ())
    assert str(refused.value).startswith("data x: the 3 masks hold no id but 0 and 255, and 255 is ignored")
    assert "give `label_map=255 1` where 255 marks the objects" in str(refused.value)
    with pytest.raises(
        RequestError, match="`label_map=11 255 255 1` where"
    ):  # what is asked for already stays
        refuse_all_ignored("data x", *masks, ((11, 255),))


@pytest.mark.parametrize("label_map", [((255, 1),), ((11, 255), (255, 255))])
def test_a_label_map_that_names_255_makes_them_legal(label_map: tuple[tuple[int, int], ...]) -> None:
    refuse_all_ignored("data x", *reader({"a.png": encode(0, 255)}), label_map)


@pytest.mark.parametrize(
    "masks",
    [
        {"a.png": encode(0, 255), "b.png": encode(0, 255), "c.png": encode(0, 1, 255)},
        {"a.png": encode(0, 255), "b.png": encode(7)},
        {"a.png": encode(0)},
        {"a.png": b"no mask"},
        {},
    ],
)
def test_one_mask_with_another_id_or_none_with_255_leaves_all_as_legal_as_they_were(
    masks: dict[str, bytes],
) -> None:
    refuse_all_ignored("data x", *reader(masks), ())


def test_of_many_masks_64_are_looked_at_each_time_the_same() -> None:
    names, asked = [f"{number}.png" for number in range(1000)], list[str]()

    def read(name: str) -> bytes:
        asked.append(name)
        return encode(0, 255)

    for _ in range(2):
        with pytest.raises(RequestError, match=re.escape("the 64 drawn of 1000 masks hold no id but 0")):
            refuse_all_ignored("data x", names, read, ())
    assert sorted(asked[:SAMPLE]) == sorted(asked[SAMPLE:]) == sorted(draw_sample(names))
    assert len(set(asked)) == SAMPLE == 64
    assert max(int(name[:-4]) for name in asked) > 900  # from all of them, not from the first


def test_looking_ends_at_the_first_mask_that_names_a_class() -> None:
    asked = list[str]()

    def read(name: str) -> bytes:
        asked.append(name)
        return encode(0, 1)

    refuse_all_ignored("data x", [f"{number}.png" for number in range(1000)], read, ())
    assert len(asked) < 20


@pytest.mark.parametrize(
    ("foreground", "masks", "text"),
    [
        (1, [encode(0, 255), encode(0)], "the 2 masks hold no id 1, the `foreground`, but 0, 255; .*=255`$"),
        (255, [encode(0, 1), b"no mask"], "the 2 masks hold no id 255, the `foreground`, but 0, 1; .*=1`$"),
        (0, [encode(7)], "the 1 masks hold no id 0, the `foreground`, but 7; "),
        (255, [encode(0, 1), encode(255)], None),
        (255, [encode(0), encode(0)], None),  # frames without an object say nothing
        (2, [], None),
    ],
)
def test_a_foreground_that_no_mask_holds_is_refused_with_the_ids_that_are_there(
    foreground: int, masks: list[bytes], text: str | None
) -> None:
    names = reader({f"{number}.png": data for number, data in enumerate(masks)})
    if text is None:
        refuse_all_ignored("data x", *names, map_foreground(foreground))
        return
    with pytest.raises(RequestError, match=f"^data x: {text}"):
        refuse_all_ignored("data x", *names, map_foreground(foreground))
