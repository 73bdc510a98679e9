"""Which images train and which validate, and the fingerprint of both."""

import hashlib
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from seg.data.layout import DataSet, Sample
from seg.data.listing import natural_key
from seg.errors import RequestError
from seg.progress import progress

GAP_SHARE = 0.05
"""Share of a single sequence left out between training and validation: neighbours look alike."""
MOST_NAMES = 6
"""A sentence that would name more names the first of them."""


@dataclass(frozen=True, slots=True)
class Split:
    """Samples for training and for validation, in natural order, and how they were told apart."""

    train: tuple[Sample, ...]
    validation: tuple[Sample, ...]
    how: str
    test: tuple[Sample, ...] = ()
    """Drawn with them where a test share is asked for; neither trains nor validates."""

    def limited(self, limit: int | None) -> "Split":
        """The first `limit` samples of each part; None: all."""
        return replace(self, train=self.train[:limit], validation=self.validation[:limit])


def pool_parts(data: DataSet) -> DataSet:
    """A data set without its own split, its test part among its samples."""
    return replace(data, samples=(*data.samples, *data.test), given_split=None, test=())


def split_samples(
    data: DataSet, validation_share: float, seed: int, frames: int = 1, test_share: float = 0.0
) -> Split:
    """Given lists win; else whole sequences, drawn by the seed; a single sequence is cut into two blocks.

    frames: how many a model sees at once, its image's own last: between the two blocks lie so many that none
    trained on is seen by validation. test_share: of the sequences, drawn as test part; 0: none. The order in
    which the samples were listed does not matter.
    RequestError: too few images for both parts, or lists that name an image twice.
    """
    if not data.samples:
        raise RequestError(f"data {data.root} has no labelled image; add some, or give another folder")
    if data.given_split is not None:
        return _given(data)
    samples = tuple(sorted(data.samples, key=lambda sample: natural_key(sample.name)))
    sequences = sorted({sample.sequence for sample in samples}, key=natural_key)
    tested = max(1, round(test_share * len(sequences))) if test_share else 0
    if tested and len(sequences) < 3:
        raise RequestError(
            f"data {data.root}: `test_share={test_share}` wants 3 sequences or more, but there are "
            f"{len(sequences)}; leave it out"
        )
    if len(sequences) == 1:
        return _blocks(samples, data.root, validation_share, frames)
    tested = min(tested, len(sequences) - 2)
    count = min(max(1, round(validation_share * len(sequences))), len(sequences) - tested - 1)
    drawn = [sequences[k] for k in np.random.default_rng(seed).permutation(len(sequences))]
    held_out, aside = set(drawn[:count]), set(drawn[count : count + tested])
    unit = "images" if len(sequences) == len(samples) else "sequences"
    return Split(
        tuple(sample for sample in samples if sample.sequence not in held_out | aside),
        tuple(sample for sample in samples if sample.sequence in held_out),
        f"validation: {_first(sorted(held_out, key=natural_key))}, {count} of {len(sequences)} {unit}, "
        f"drawn by seed {seed}" + (f"; {tested} more are the test part" if tested else ""),
        tuple(sample for sample in samples if sample.sequence in aside),
    )


def _first(names: list[str]) -> str:
    return ", ".join(names if len(names) <= MOST_NAMES else [*names[: MOST_NAMES - 1], "..."])


def _given(data: DataSet) -> Split:
    assert data.given_split is not None
    counts = Counter(name for names in data.given_split for name in names)
    if repeated := [name for name, count in counts.items() if count > 1]:
        raise RequestError(
            f"data {data.root}: its lists name {_first(repeated)} more than once; "
            "an image trains or validates, once"
        )
    by_name = {sample.name: sample for sample in data.samples}
    train, validation = (tuple(by_name[name] for name in names) for names in data.given_split)
    if not train or not validation:
        raise RequestError(
            f"data {data.root}: its lists give {len(train)} images to train, {len(validation)} to validate"
        )
    return Split(train, validation, "split by the data set's own lists")


def _blocks(samples: tuple[Sample, ...], root: Path, validation_share: float, frames: int) -> Split:
    total = len(samples)
    gap = max(1, round(GAP_SHARE * total), frames - 1)
    validation = min(max(1, round(validation_share * total)), total - gap - 1)
    train = total - validation - gap
    if validation < 1:
        raise RequestError(
            f"data {root}: {total} labelled images are too few to train and validate; give {gap + 2} or more"
        )
    return Split(
        samples[:train],
        samples[-validation:],
        f"one sequence: its last {validation} images validate, {gap} before them are left out",
    )


def data_fingerprint(
    samples: Iterable[Sample], root: Path, others: Iterable[Path] = (), labels: Path | None = None
) -> str:
    """Sha256 in hexadecimal over sorted relative path + content hash of images, labels and other files.

    labels: the folder from which the paths of labels outside of `root` count.
    A sample whose label an adapter reads adds its name and its decoder's repr: what a colour or a breed means
    may stand in a file of neither kind.
    """
    samples = tuple(samples)
    given = {file for sample in samples for file in sample.files} | set(others)
    files = sorted((_relative_name(file, root, labels), file) for file in given)
    total = hashlib.sha256()
    with ThreadPoolExecutor() as pool, progress("reading data", len(files)) as advance:
        digests = pool.map(file_sha256, (file for _, file in files))
        for (name, _), digest in zip(files, digests, strict=True):
            total.update(f"{name}\0{digest}\n".encode())
            advance()
    for name, decoder in sorted((sample.name, repr(sample.decoder)) for sample in samples if sample.decoder):
        total.update(f"{name}\0{decoder}\n".encode())
    return total.hexdigest()


def _relative_name(file: Path, root: Path, labels: Path | None) -> str:
    if labels is None or file.is_relative_to(root):
        return file.relative_to(root).as_posix()
    return f"labels:{file.relative_to(labels).as_posix()}"


def file_sha256(path: Path) -> str:
    """Sha256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
