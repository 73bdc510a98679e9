"""Which images, labels and masks are others than when they were scored: by size and time, or by content."""

from array import array
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from seg.data.images import split_page
from seg.data.listing import Listing, natural_key
from seg.data.pairing import Labels
from seg.errors import RequestError
from seg.ledger.ledger import Ledger
from seg.progress import progress
from seg.storage import Place, refusing
from seg.threads import map_ahead

SHOWN = 5
"""Names that a message gives before it only counts."""
HASHED_AT_ONCE = 8
ROWS_AT_ONCE = 1 << 17

MASK_ENDING = ".png"
"""Of a mask, after the whole name of its image."""

STAMPS = ["image", "bytes", "mtime_ns", "label_path", "label_bytes", "label_mtime_ns"]


@dataclass(frozen=True, slots=True)
class Changes:
    """Images by what is no longer as when they were scored or set aside, each list in natural order."""

    images: list[str] = field(default_factory=list)
    """Whose own file is another."""
    labels: list[str] = field(default_factory=list)
    """Whose label is another, has come or is gone."""
    gone: list[str] = field(default_factory=list)
    """Which are in the ledger and no longer in the archive; their rows stay."""
    masks: list[str] = field(default_factory=list)
    """Whose mask is another than was written."""
    unmasked: list[str] = field(default_factory=list)
    """Whose mask is not there."""
    lost: list[str] = field(default_factory=list)
    """Whose mask is one of both and cannot be made again, as they are no longer in the archive."""

    @property
    def changed(self) -> list[str]:
        """The images to score again."""
        return list(dict.fromkeys(self.images + self.labels + self.masks))

    def refuse(self) -> None:
        """RequestError, which counts and names what changed; none where nothing did."""
        counts = ((self.images, "image"), (self.labels, "label"), (self.masks, "mask"))
        found = [
            f"{len(names)} {kind}{'s' if len(names) > 1 else ''} ({first_names(names)})"
            for names, kind in counts
            if names
        ]
        if found:
            raise RequestError(
                f"{' and '.join(found)} changed since they were scored; give `rescore_changed` to score them "
                "again, or another `out`"
            )

    def lines(self, besides: Collection[str] = ()) -> Iterator[str]:
        """What to say of images, but for some, and of masks that are no longer there."""
        others = frozenset(besides)
        if gone := [name for name in self.gone if name not in others]:
            yield (
                f"{len(gone)} scored images are no longer in the archive ({first_names(gone)}); their rows "
                "stay in the ledger and in its sums"
            )
        if lost := [name for name in self.lost if name not in others]:
            yield (
                f"masks of {len(lost)} of these are missing or have changed ({first_names(lost)}), and "
                "cannot be made again"
            )
        if self.unmasked:
            count, names = len(self.unmasked), first_names(self.unmasked)
            masks, images = ("masks are", "their images are") if count > 1 else ("mask is", "its image is")
            yield f"{count} {masks} missing ({names}); {images} scored again"


def find_changes(listing: Listing, labels: Labels, ledger: Ledger) -> Changes:
    """What changed in size or time since it was scored or set aside, over the images of a listing.

    labels: those of the listing's images. Of an image set aside the label counts if it was read or missing.
    Images of a TIFF that has other pages than before count as changed.
    """
    there = _There(listing, labels, pa.array(listing.images, pa.string()))
    found = Changes()
    for rows in _gather(ledger.rows(STAMPS)):
        there.compare(rows, np.ones(rows.num_rows, np.bool_), found)
    scored_and_gone = found.gone.copy()
    for rows in _gather(ledger.quarantine_rows([*STAMPS, "reason"])):
        was_missing = _booleans(pc.call_function("equal", [rows["reason"], pa.scalar("label_missing")]))
        there.compare(rows, was_missing | (_integers(rows["label_bytes"]) >= 0), found)
    lists = (found.images, found.labels, scored_and_gone)
    return Changes(*(sorted(names, key=natural_key) for names in lists))


def find_changed_masks(masks: Place, ledger: Ledger) -> Changes:
    """Of the ledger's images those whose mask is not there, or of another size; by one listing of masks/.

    A part from before masks were noted tells no size: there only presence counts. RequestError: the folder
    cannot be listed.
    """
    with refusing(str(masks)):
        names, sizes = _list_sizes(masks)
    found = Changes()
    for rows in _gather(ledger.rows(["image", "mask_bytes"])):
        wanted = pc.call_function("binary_join_element_wise", [rows["image"], MASK_ENDING, ""])
        at = _integers(pc.call_function("index_in", [wanted], pc.SetLookupOptions(names)))
        known = _integers(rows["mask_bytes"])
        found.masks.extend(_names(rows, (at >= 0) & (known >= 0) & (sizes[at] != known)))
        found.unmasked.extend(name for name in _names(rows, at < 0) if not _is_linked(masks, name))
    return found


def _is_linked(masks: Place, image: str) -> bool:
    """Whether a mask that no listing found is there all the same: in a folder that is a link."""
    return masks.is_local and masks.stat(f"{image}{MASK_ENDING}") is not None


def _list_sizes(place: Place) -> tuple[pa.ChunkedArray, NDArray[np.int64]]:
    """Names of all files below a folder, and their sizes [N + 1], -1 at the end, where index -1 looks."""
    files, chunks, sizes = place.files(), [pa.array([], pa.string())], array("q")
    while some := list(islice(files, ROWS_AT_ONCE)):
        # a name that is no UTF-8 is none of ours, and Arrow cannot hold it
        chunks.append(pa.array([name.encode(errors="replace").decode() for name, _, _ in some], pa.string()))
        sizes.extend(size for _, size, _ in some)
    sizes.append(-1)
    return pa.chunked_array(chunks), np.frombuffer(sizes, np.int64)


def merge_changes(found: Sequence[Changes], listing: Listing, asked: int) -> Changes:
    """All that was found, each name once in a list; masks that nothing is made of again told apart.

    asked: images asked for, the first so many of the listing: of these missing masks are made again.
    """
    lists = (
        sorted({name for one in found for name in getattr(one, kind)}, key=natural_key)
        for kind in ("images", "labels", "gone", "masks", "unmasked")
    )
    merged = Changes(*lists)
    odd = {*merged.masks, *merged.unmasked}
    places = {name: k for k, name in enumerate(listing.images) if name in odd} if odd else {}
    return replace(
        merged,
        masks=[name for name in merged.masks if name in places],
        unmasked=[name for name in merged.unmasked if places.get(name, asked) < asked],
        lost=sorted((name for name in odd - places.keys() if listing.covers(name)), key=natural_key),
    )


def _gather(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in fewer tables: a look-up costs the same for many as for one."""
    some: list[pa.Table] = []
    num_rows = 0
    for table in tables:
        some.append(table)
        num_rows += table.num_rows
        if num_rows >= ROWS_AT_ONCE:
            yield pa.concat_tables(some)
            some, num_rows = [], 0
    if some:
        yield pa.concat_tables(some)


@dataclass(frozen=True, slots=True)
class _There:
    """What is in archive and label folder now."""

    listing: Listing
    labels: Labels
    images: pa.Array
    """The listing's names once more, for look-ups."""

    def compare(self, rows: pa.Table, label_counts: NDArray[np.bool_], found: Changes) -> None:
        """Add the names of rows whose image differs, of others whose label does, of those that are gone."""
        at = _integers(self._find(rows["image"]))
        listed = at >= 0
        bytes_, mtime_ns = _integers(rows["bytes"]), _integers(rows["mtime_ns"])
        other = listed & ((bytes_ != self.listing.bytes[at]) | (mtime_ns != self.listing.mtime_ns[at]))
        other &= bytes_ >= 0  # set aside without having been read: there is nothing to compare
        other_label = listed & label_counts & ~other & self._has_other_label(rows, at)
        missing = [name for name in _names(rows, ~listed) if self.listing.covers(name)]
        other_pages, gone = self.split_missing(missing)
        found.images.extend(_names(rows, other) + other_pages)
        found.labels.extend(_names(rows, other_label))
        found.gone.extend(gone)

    def split_missing(self, missing: list[str]) -> tuple[list[str], list[str]]:
        """Names that are not listed: of a file that is, with other pages; of a file that is not."""
        files = [split_page(name)[0] for name in missing]
        listed = np.zeros(len(missing), np.bool_)
        for names in (files, [f"{file}#0" for file in files]):
            listed |= _integers(self._find(pa.chunked_array([names], pa.string()))) >= 0
        pairs = list(zip(missing, listed, strict=True))
        return [name for name, there in pairs if there], [name for name, there in pairs if not there]

    def _find(self, names: pa.ChunkedArray) -> pa.ChunkedArray:
        return pc.call_function("index_in", [names], pc.SetLookupOptions(self.images))

    def _has_other_label(self, rows: pa.Table, at: NDArray[np.int64]) -> NDArray[np.bool_]:
        bytes_, mtime_ns = _integers(rows["label_bytes"]), _integers(rows["label_mtime_ns"])
        other = (bytes_ != self.labels.bytes[at]) | (mtime_ns != self.labels.mtime_ns[at])
        now = pa.array((self.labels.names.get(self.listing.images[k]) for k in at), pa.string())
        return other | _booleans(pc.call_function("not_equal", [rows["label_path"], now]))


Kind = Literal["images", "labels", "masks"]
Sharing = dict[tuple[Kind, str, str], list[str]]
"""Images that are pages of one file, or whose labels are, by the file and its hash."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """A file as the ledger knows it."""

    image: str
    kind: Kind
    place: Place
    name: str
    """Of a page it ends in '#' and the page."""
    sha256: str

    @property
    def file(self) -> str:
        """Without the page."""
        return split_page(self.name)[0]

    def joins(self, sharing: Sharing) -> bool:
        """Join the images whose file this is; whether it is the first of them."""
        if self.file == self.name:
            return True
        images = sharing.setdefault((self.kind, self.file, self.sha256), [])
        images.append(self.image)
        return len(images) == 1

    def sharers(self, sharing: Sharing) -> list[str]:
        """The images whose file this is."""
        return sharing.get((self.kind, self.file, self.sha256), [self.image])

    def differs(self) -> bool:
        """Whether it is another now; reads it. RequestError: it cannot be read."""
        with refusing(f"{self.place}/{self.file}"):
            try:
                return self.place.sha256(self.file) != self.sha256
            except FileNotFoundError:
                return False


def find_other_content(
    archive: Place, labels: Place | None, ledger: Ledger, masks: Place | None = None
) -> Changes:
    """What has another sha256 than when it was scored; every file of the ledger is read, once.

    labels, masks: None leaves them out. Files that are not there are left out. RequestError: one cannot be
    read.
    """
    sharing: Sharing = {}
    other: dict[str, list[_Kept]] = {"images": [], "labels": [], "masks": []}
    total = sum(rows.num_rows for rows in ledger.rows(["image"]))
    with progress("verifying", total) as advance, ThreadPoolExecutor(HASHED_AT_ONCE) as pool:
        for differing in map_ahead(
            pool, _differing, _files(archive, labels, masks, ledger, sharing), HASHED_AT_ONCE
        ):
            for kept in differing:
                other[kept.kind].append(kept)
            advance()
    found = {
        kind: {name for kept in files for name in kept.sharers(sharing)} for kind, files in other.items()
    }
    images = sorted(found["images"], key=natural_key)
    relabelled, remasked = (
        sorted(found[kind] - found["images"], key=natural_key) for kind in ("labels", "masks")
    )
    return Changes(images, relabelled, masks=remasked)


def _differing(files: list[_Kept]) -> list[_Kept]:
    return [kept for kept in files if kept.differs()]


def _files(
    archive: Place,
    labels: Place | None,
    masks: Place | None,
    ledger: Ledger,
    sharing: Sharing,
) -> Iterator[list[_Kept]]:
    """The files of each image in the ledger that nobody had before."""
    columns = ["image", "sha256", "label_path", "label_sha256", "mask_sha256"]
    for rows in ledger.rows(columns):
        for image, sha256, label, label_sha256, mask_sha256 in zip(*rows.to_pydict().values(), strict=True):
            kept = [_Kept(image, "images", archive, image, sha256)]
            if labels is not None and label is not None:
                kept.append(_Kept(image, "labels", labels, label, label_sha256))
            if masks is not None and mask_sha256 is not None:
                kept.append(_Kept(image, "masks", masks, f"{image}{MASK_ENDING}", mask_sha256))
            yield [file for file in kept if file.joins(sharing)]


def _integers(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """Values as int64; -1 for null."""
    return column.cast(pa.int64()).fill_null(-1).to_numpy()


def _booleans(column: pa.ChunkedArray) -> NDArray[np.bool_]:
    """Values as booleans; False for null."""
    return column.fill_null(False).to_numpy()


def _names(rows: pa.Table, wanted: NDArray[np.bool_]) -> list[str]:
    return rows["image"].filter(pa.array(wanted)).to_pylist()


def first_names(names: list[str]) -> str:
    """Some names in words, those beyond SHOWN as an ellipsis."""
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
