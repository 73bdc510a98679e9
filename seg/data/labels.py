"""One label file as a mask: an image of class ids or colours, or boxes; and a look at many of them."""

import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from seg.data.boxes import describe_size, draw_boxes, parse_json, parse_yolo, to_pixels
from seg.data.formats.bmp import PILLOW_ERRORS
from seg.data.formats.header import Pixels
from seg.data.formats.png import MAGIC as PNG_MAGIC
from seg.data.formats.png import add_palette, read_png, stored_samples
from seg.data.formats.tiff import FORMS, Tiff
from seg.data.images import ImageFiles, Page, decode_image, split_page
from seg.errors import ImageError, LabelMismatch, RequestError, UnsupportedImage
from seg.progress import progress
from seg.threads import map_ahead

IGNORE = 255
"""Truth that is not counted."""
SAMPLE = 64
"""Labels that are looked at where there are more."""
THREADS = 4
"""Look at the same time: a mask of 3072 x 3072 pixels takes 9 MB and, decoding, as much again."""

Item = TypeVar("Item")
Content = bytes | Page
"""What a label's file holds: its bytes, or a page of a stack of masks, read when it is decoded."""
LabelMap = Sequence[tuple[int, int]]
"""Pairs (id in the file, class id or 255), applied before ids are checked."""


def map_foreground(stored: int) -> tuple[tuple[int, int], ...]:
    """A label_map that makes one stored id class 1 and every other 0. RequestError: it is no id."""
    if not 0 <= stored <= IGNORE:
        raise RequestError(
            f"`foreground` is {stored}, but the ids of a mask go from 0 to 255; try `foreground=255`"
        )
    return tuple((other, int(other == stored)) for other in range(IGNORE + 1))


class LabelDecoder(Protocol):
    """How an adapter's label files become masks: called as `decode_label` is, with the same promises.

    A frozen dataclass of plain values, so that it pickles and that its repr, which stands in a pack's key,
    says all that the mask depends on besides the file.
    """

    def __call__(
        self, data: Content, path: Path, size: tuple[int, int], classes: Sequence[str], label_map: LabelMap
    ) -> NDArray[np.uint8]:
        """The label as a mask, uint8 [H, W]; `label_map` is applied to the ids that the decoder finds.

        classes: names in id order.
        """
        ...


@dataclass(frozen=True, slots=True)
class Label:
    """The truth of one image: a mask, and the boxes it was drawn from where the label's file holds boxes."""

    mask: NDArray[np.uint8]
    """uint8 [H, W]: class ids, 255 ignored."""
    boxes: NDArray[np.int64] | None
    """int64 [N, 5]: class id, x, y, width, height, in whole own pixels, clipped to the image, in file order;
    also those that later ones cover. None: the file holds no boxes."""


def open_label(files: ImageFiles, label: str | Path) -> Content:
    """What the file of a label holds, or the page that its name ends in.

    OSError: it cannot be read. LabelMismatch: it is over the limit of files; it is no TIFF but has pages.
    """
    file, page = split_page(str(label))
    try:
        return files.open(file, page).content(page)
    except ImageError as error:
        raise LabelMismatch(f"label {label} cannot be read: {error}") from None


def read_label(
    data: Content,
    path: Path,
    size: tuple[int, int],
    classes: Sequence[str],
    label_map: LabelMap = (),
    decoder: LabelDecoder | None = None,
) -> Label:
    """The truth that a label's file holds: ids of `classes`, and 255.

    data: of the file at `path`, whose extension says what it holds; size: (H, W) of its image;
    classes: names in id order; decoder: reads masks that do not store ids.
    LabelMismatch, naming the file, and of a box file line or box and field, never their text: another size,
    an unknown id or class, a file that does not parse, a box wholly outside the image. DataWarning: a box
    partly outside, which is clipped.
    """
    suffix = path.suffix.lower()
    if isinstance(data, bytes) and suffix in (".txt", ".json"):
        found = parse_yolo(data, path, size) if suffix == ".txt" else parse_json(data, path, classes)
        boxes = to_pixels(found, size, len(classes))
        return Label(draw_boxes(boxes, size), boxes)
    if decoder is not None:
        return Label(decoder(data, path, size, classes, label_map), None)
    return Label(map_ids(decode_ids(data, path, size), len(classes), label_map, path), None)


def decode_label(
    data: Content,
    path: Path,
    size: tuple[int, int],
    classes: Sequence[str],
    label_map: LabelMap = (),
    decoder: LabelDecoder | None = None,
) -> NDArray[np.uint8]:
    """A label as a mask, uint8 [H, W]: what training needs of `read_label`."""
    return read_label(data, path, size, classes, label_map, decoder).mask


def decode_ids(data: Content, path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Class ids of a mask as they are stored, uint8 [H, W]; of a palette its indices, not its colours."""
    mask = _decode_pixels(data, path, size, indices=True)
    if mask.ndim != 2 or mask.dtype != np.uint8:
        raise LabelMismatch(
            f"label {path} is {mask.dtype} {mask.shape}, wanted 8-bit class ids of one channel; where its "
            "colours stand for classes, give a table of them as `label_colours`"
        )
    return mask.astype(np.uint8, copy=False)


def decode_colours(data: Content, path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Colours of a mask, RGB, uint8 [H, W, 3]."""
    mask = _decode_pixels(data, path, size, indices=False)
    if mask.ndim != 3 or mask.dtype != np.uint8:
        raise LabelMismatch(f"label {path} is {mask.dtype} {mask.shape}, wanted 8-bit RGB colours")
    return mask.astype(np.uint8, copy=False)


def _decode_pixels(data: Content, path: Path, size: tuple[int, int], *, indices: bool) -> Pixels:
    if isinstance(data, Page):
        return _decode_page(data, path, size, indices=indices)
    decode = _decode_other
    if data.startswith(PNG_MAGIC):
        decode = _decode_png
    elif data[:4] in FORMS:
        decode = _decode_tiff
    try:
        return decode(data, path, size, indices=indices)
    except UnidentifiedImageError:
        raise LabelMismatch(f"label {path} is no image; a mask is a PNG of class ids") from None
    except LabelMismatch:
        raise
    except (ImageError, *PILLOW_ERRORS) as error:
        raise LabelMismatch(f"label {path} cannot be read: {error}") from None


def _decode_png(data: bytes, path: Path, size: tuple[int, int], *, indices: bool) -> Pixels:
    png = read_png(data)
    _check_size((png.height, png.width), path, size)
    return stored_samples(png) if indices and png.is_packed else decode_image(data)


def _decode_tiff(data: bytes, path: Path, size: tuple[int, int], *, indices: bool) -> Pixels:
    tiff = Tiff(io.BytesIO(data))
    if tiff.num_pages > 1:  # which of them is this image's nobody says
        raise LabelMismatch(
            f"label {path} has {tiff.num_pages} pages and its image one; save that mask as a file of one page"
        )
    return _decode_page(Page(tiff, None), path, size, indices=indices)


def _decode_page(page: Page, path: Path, size: tuple[int, int], *, indices: bool) -> Pixels:
    try:
        header = page.header()
        _check_size((header.height, header.width), path, size)
        return page.samples() if indices else page.decode()
    except LabelMismatch:
        raise
    except ImageError as error:  # an OSError is its storage's
        raise LabelMismatch(f"label {path} cannot be read: {error}") from None


def _decode_other(data: bytes, path: Path, size: tuple[int, int], *, indices: bool) -> Pixels:
    with Image.open(io.BytesIO(data), formats=("BMP", "JPEG")) as opened:
        _check_size((opened.height, opened.width), path, size)
        if indices and opened.mode == "P":  # decoding would give a palette's colours for its ids
            return np.asarray(opened, np.uint8)
        if indices and opened.mode == "1":
            return _stored_bits(opened, data)
    return decode_image(data)


def _stored_bits(opened: Image.Image, data: bytes) -> NDArray[np.uint8]:
    """Zeros and ones of a BMP, uint8 [H, W], as they are stored."""
    core = data[14:18] == b"\x0c\0\0\0"  # the header of OS/2, without a compression
    if int.from_bytes(data[24:26] if core else data[28:30], "little") != 1:
        raise UnsupportedImage(
            "it is a BMP of 8 bits in two colours, whose ids are not told; save it as a PNG"
        )
    return np.asarray(opened, np.uint8)


def _check_size(found: tuple[int, int], path: Path, size: tuple[int, int]) -> None:
    """LabelMismatch, before anything is allocated: a mask is not of its image's size."""
    if found != size:
        raise LabelMismatch(f"label {path} is {describe_size(found)} but its image is {describe_size(size)}")


def map_ids(mask: NDArray[np.uint8], num_classes: int, label_map: LabelMap, path: Path) -> NDArray[np.uint8]:
    """Ids as `label_map` says, the others as they are. LabelMismatch: one is then no class, nor 255."""
    table = np.arange(256, dtype=np.int16)
    for stored, meant in label_map:
        table[stored] = meant
    table[(table >= num_classes) & (table != IGNORE)] = -1  # ids that nobody knows, mapped or not
    mapped = cv2.LUT(mask, table)
    if mapped.min(initial=0) < 0:
        unknown = ", ".join(str(number) for number in np.unique(mask[mapped < 0])[:5])
        raise LabelMismatch(
            f"label {path} holds class id {unknown}, not below {num_classes} and not in label_map; "
            "add it to the recipe's label_map, or mend the file"
        )
    return mapped.astype(np.uint8)


def encode_mask(mask: NDArray[np.uint8], palette: bytes = b"") -> bytes:
    """A mask as a PNG of class ids, which `decode_label` reads back.

    palette: colours that viewers show for the ids, three bytes each; without one the ids are grays.
    """
    encoded, data = cv2.imencode(".png", mask, (cv2.IMWRITE_PNG_COMPRESSION, 1))
    assert encoded, "a mask of 8 bits and one channel is what PNG is for"
    return add_palette(data.tobytes(), palette) if palette else data.tobytes()


def decode_mask(data: bytes) -> Pixels:
    """What a PNG stores: a mask's ids, be they grays or numbers of colours. ImageError: it is damaged."""
    png = read_png(data) if data.startswith(PNG_MAGIC) else None
    return stored_samples(png) if png and png.is_packed else decode_image(data)


def draw_sample(items: Sequence[Item], count: int = SAMPLE) -> list[Item]:
    """So many of the items in their order, drawn by a fixed seed: each time the same; all where fewer."""
    if len(items) <= count:
        return list(items)
    places = np.random.default_rng(0).choice(len(items), count, replace=False)
    return [items[place] for place in np.sort(places).tolist()]


def holds_mask(name: str) -> bool:
    """Whether a label of this name is a mask of stored ids, not a file of boxes."""
    return Path(name).suffix.lower() not in (".txt", ".json")


def refuse_all_ignored(
    where: str, masks: Sequence[str], open_mask: Callable[[str], Content], label_map: LabelMap
) -> None:
    """Refuse masks that hold nothing but 0 and 255 where 255 stays ignored: no object would be in them.

    Where `label_map` is that of one foreground id, refuse masks with other ids and none of that one. masks:
    all of a data set, of which a sample is looked at until one shows an object; open_mask: as of
    `open_label`. RequestError names `where` and the option that mends it. A mask that cannot be read says
    nothing here: whoever uses it names it.
    """
    foreground = _find_foreground(label_map)
    if foreground is None and any(stored == IGNORE for stored, _ in label_map):
        return
    objects = set(range(1, IGNORE)) if foreground is None else {foreground}
    chosen, seen = draw_sample(masks), set[int]()
    with ThreadPoolExecutor(THREADS) as pool, progress("looking at masks", len(chosen)) as advance:
        for ids in map_ahead(pool, partial(_stored_ids, open_mask), chosen, 2 * THREADS):
            seen |= ids
            if seen & objects:
                return
            advance()
    if foreground is None and IGNORE in seen:
        raise _all_ignored(where, _count_looked_at(chosen, masks), label_map)
    if foreground is not None and seen - {0}:
        there = ", ".join(map(str, sorted(seen)))
        raise RequestError(
            f"{where}: {_count_looked_at(chosen, masks)} masks hold no id {foreground}, the `foreground`, "
            f"but {there}; give the one that marks the objects: `foreground={max(seen)}`"
        )


def _find_foreground(label_map: LabelMap) -> int | None:
    """The id that `map_foreground` made a label_map of; None: it did not."""
    found = [stored for stored, meant in label_map if meant == 1]
    return found[0] if len(found) == 1 and tuple(label_map) == map_foreground(found[0]) else None


def _count_looked_at(chosen: Sequence[str], masks: Sequence[str]) -> str:
    return f"the {len(masks)}" if len(chosen) == len(masks) else f"the {len(chosen)} drawn of {len(masks)}"


def _stored_ids(open_mask: Callable[[str], Content], mask: str) -> frozenset[int]:
    """The ids that a mask stores; none of one that cannot be read."""
    try:
        data = open_mask(mask)
        ids = decode_ids(data, Path(mask), _find_size(data))
    except (ImageError, *PILLOW_ERRORS):
        return frozenset()
    counts = cv2.calcHist([ids], [0], None, [256], [0, 256])  # bincount copies to 8 bytes a pixel first
    return frozenset(np.flatnonzero(counts).tolist())


def _find_size(data: Content) -> tuple[int, int]:
    if isinstance(data, Page):
        header = data.header()
        return header.height, header.width
    with Image.open(io.BytesIO(data)) as opened:
        return opened.height, opened.width


def _all_ignored(where: str, masks: str, label_map: LabelMap) -> RequestError:
    kept = "".join(f"{stored} {meant} " for stored, meant in label_map)
    return RequestError(
        f"{where}: {masks} masks hold no id but 0 and 255, and 255 is ignored, so that no object is in any; "
        f"give `label_map={kept}255 1` where 255 marks the objects, or `label_map={kept}255 255` where it is "
        "to be ignored"
    )
