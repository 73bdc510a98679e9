import os
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow.fs import S3FileSystem

from seg.errors import RequestError
from seg.files import write_bytes
from seg.score.paths import check_exports, check_masks, find_clashes, mask_name, refuse_links
from seg.storage import Place, as_place


def refusal(check: object, *words: object) -> str:
    with pytest.raises(RequestError) as refused:
        check(*words)  # type: ignore[operator]
    return str(refused.value)


def test_a_mask_that_would_have_the_name_of_a_folder_of_masks_is_refused_by_name(tmp_path: Path) -> None:
    images = ["a.png", "a.png.png/deep/b.png", "c/d.tif#1", "c/d.tif#1.png/e.npy", "x.png"]
    assert refusal(check_masks, as_place(tmp_path), images) == (
        "archive: the mask of a.png, a.png.png, would have the name of the folder in which "
        "a.png.png/deep/b.png is (so would 1 more: c/d.tif#1); rename one of the two, leave it out with "
        "`exclude`, or give `masks=none`"
    )
    check_masks(as_place(tmp_path), ["a.png", "a.png.PNG/b.png", "b/a.png.png/c.png", "a.png.pngs/d.png"])


def test_an_exported_file_that_would_have_the_name_of_a_folder_is_refused_by_name(tmp_path: Path) -> None:
    line = refusal(check_exports, as_place(tmp_path), ["a.png", "a.txt/b.png"], "yolo")
    assert line.startswith("archive: the YOLO file of a.png, a.txt, would have the name of the folder")
    line = refusal(check_exports, as_place(tmp_path), ["b.png", "classes.txt/a.png"], "yolo")
    assert line.startswith("archive: the list of classes, classes.txt, would have the name of the folder")
    line = refusal(check_exports, as_place(tmp_path), ["a.tif", "a.png/b.png"], "masks")
    assert line.startswith("archive: the mask of a.tif, a.png, would have the name of the folder")
    check_exports(as_place(tmp_path), ["classes.png", "classes.txt/a.png"], "masks")
    line = refusal(check_exports, as_place(tmp_path), [f"{'t' * 251}.tif#10"], "yolo")
    assert line.endswith(
        "the name of its YOLO file would be longer than 255 bytes; rename the file, leave it out with "
        "`exclude`, or `export=coco`"
    )


PARTS = st.sampled_from(["a.png", "a.png.png", "a.png.png.png", "b", "a", ".png", "png"])


@given(st.lists(st.lists(PARTS, min_size=1, max_size=4).map("/".join), unique=True, max_size=12))
def test_clashes_are_those_of_the_file_system(names: list[str]) -> None:
    images = [name for name in names if not any(other.startswith(f"{name}/") for other in names)]
    masks = {image: f"{image}.png" for image in images}
    clashing = {one for one, mask in masks.items() if any(m.startswith(f"{mask}/") for m in masks.values())}
    found = find_clashes(images, mask_name, ".png")
    assert {image for image, _ in found} == clashing
    assert all(inside.startswith(f"{image}.png/") for image, inside in found)


def test_a_million_folders_named_like_masks_cost_no_list_of_their_names() -> None:
    images = [f"{'long/' * 30}{number}.png/{number}.png" for number in range(20_000)]
    tracemalloc.start()
    assert find_clashes(images, mask_name, ".png") == []
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 110 * len(images)  # a set of the names takes 300 each


def name_of_path_length(folder: Path, length: int) -> str:
    """An image below a folder whose mask's own path has so many bytes, in folders of 200."""
    room = length - len(os.fsencode(f"{folder}/")) - len("x.png.png")
    folders, rest = divmod(room, 201)
    return "/".join([*["f" * 200] * folders, "x" * rest + "x.png"])


def test_a_mask_path_is_refused_where_the_system_would_refuse_it(tmp_path: Path) -> None:
    out = tmp_path / "out"
    longest = name_of_path_length(out / "masks", 4095 - 15)  # 15: its name while it is written
    check_masks(as_place(out), [longest])
    write_bytes(out / "masks" / f"{longest}.png", b"")
    too_long = longest.replace("x.png", "xx.png")
    line = refusal(check_masks, as_place(out), [too_long])
    assert (
        f"{too_long}: the path of its file in masks/ would be 4096 bytes long, over the limit of 4095" in line
    )
    with pytest.raises(OSError, match="name too long"):
        write_bytes(out / "masks" / f"{too_long}.png", b"")


def test_a_name_of_an_object_is_refused_where_stores_would_refuse_it() -> None:
    store = Place("s3://bucket/out", S3FileSystem(anonymous=True, region="eu-west-1"), "bucket/out")
    check_masks(store, [f"{'a' * 199}/" * 5 + "b" * (1024 - len("out/masks/.png") - 1000)])
    line = refusal(check_masks, store, [f"{'a' * 200}/" * 5 + "b" * 50])
    assert "would be 1069 bytes long, over the limit of 1024" in line


@pytest.mark.parametrize(
    "name", ["ledger", "objects", "quarantine", "masks", "backgrounds", "inflight", "exports"]
)
def test_a_folder_of_ours_that_is_a_link_is_refused(tmp_path: Path, name: str) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (out / "masks").mkdir(parents=True)
    refuse_links(as_place(out))
    for target in (elsewhere, tmp_path / "nowhere"):
        if name == "masks" and not (out / name).is_symlink():
            (out / "masks").rmdir()
        (out / name).unlink(missing_ok=True)
        (out / name).symlink_to(target)
        assert refusal(refuse_links, as_place(out)) == (
            f"`out={out}`: {name} is a link, and what is written there would land elsewhere; "
            "put a folder in its place, or give another `out`"
        )
    (out / name).unlink()
    (out / name).touch()
    line = refusal(refuse_links, as_place(out))
    assert line == f"`out={out}`: {name} is no folder; remove it, or give another `out`"
