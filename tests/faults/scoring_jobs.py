"""Scorings as processes of their own that start in a second, and what they must leave behind."""

import ctypes
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seg.files import is_leftover, persistently
from seg.ledger import ledger
from seg.ledger.ledger import Ledger
from seg.requests import ScoreRequest
from seg.storage import as_place
from tests.faults.file_events import MOVED_HERE, OPENED, Event
from tests.forked import Disturb, Job, fork_job
from tests.small import count_by_hand, ledger_rows, read_tree, sum_ledger


def ask(archive: Path, model: Path, out: Path, **options: object) -> ScoreRequest:
    """A scoring in this process, without Ray where no `workers` are given."""
    words = {"archive": as_place(archive), "models": (model,), "out": as_place(out), "workers": 0, "batch": 1}
    return ScoreRequest(**(words | options))  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Command:
    """What a user types, again and again."""

    archive: Path | str
    model: Path
    out: Path | str
    log: Path
    options: tuple[object, ...] = ("--workers", 0, "--batch", 1)
    variables: dict[str, str] | None = None

    def start(self, *more: object, disturb: Disturb | None = None) -> Job:
        """Start it. disturb: called in its process before it begins, picklable."""
        words = (self.archive, "--model", self.model, "--out", self.out, *self.options, *more)
        variables = {"FRINGE_CACHE": self.log.parent / "cache"} | (self.variables or {})
        return fork_job("score", *words, log=self.log, disturb=disturb, **variables)

    def finish(self, *more: object, disturb: Disturb | None = None) -> Job:
        """Run it to its end."""
        job = self.start(*more, disturb=disturb)
        job.wait()
        return job


def be_impatient() -> None:
    """Wait 2 s for storage that refuses, not two minutes."""
    persistently.__kwdefaults__ = {"patience_s": 2.0}


def commit_often() -> None:
    """Close a part after 16 rows, so that a small archive has many."""
    ledger.PART_ROWS = 16


DAC_OVERRIDE = 1
"""Number of the capability by which root writes where no mode allows it (capabilities(7))."""


def obey_modes_impatiently() -> None:
    """Obey the modes of files and folders, also as root; and as `be_impatient`."""
    libc, mask = ctypes.CDLL(None, use_errno=True), 2**32 - 1 - (1 << DAC_OVERRIDE)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3, this thread: threads to come inherit it
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; then their upper halves
    assert libc.capget(header, sets) == 0
    sets[0] &= mask
    assert libc.capset(header, sets) == 0
    be_impatient()


def finished_images(folder: Path) -> set[str]:
    """The images in a ledger."""
    return Ledger(folder).finished_images()


def check_whole(folder: Path, labels: dict[str, Path | None]) -> list[list[int]]:
    """Every image is in the ledger once and its matrices are those of the masks on disk; their sum."""
    assert [row["image"] for row in ledger_rows(folder)] == sorted(labels)
    assert not Ledger(folder).quarantined_images()
    total = sum_ledger(folder)
    assert total == count_by_hand(folder / "masks", labels)
    assert json.loads((folder / "summary.json").read_text())["confusion"] == total
    return total


def check_alike(folder: Path, undisturbed: Path) -> None:
    """Two finished scorings have the same matrix for each image, and the same masks byte for byte."""
    matrices = [{row["image"]: row["confusion"] for row in ledger_rows(one)} for one in (folder, undisturbed)]
    assert matrices[0] == matrices[1]
    assert [row["image"] for row in ledger_rows(folder)] == sorted(matrices[0])
    assert read_masks(folder) == read_masks(undisturbed)


def read_masks(folder: Path) -> dict[str, bytes]:
    """The masks of a scores folder, without what killed jobs did not finish."""
    files = read_tree(folder / "masks")
    return {name: files[name] for name in files if not is_leftover(Path(name))}


def count_reads(events: Sequence[Event], images: Path) -> Counter[str]:
    """How often each image was opened until summary.json was there; the report comes after it."""
    reads: Counter[str] = Counter()
    for path, kind in events:
        if kind == MOVED_HERE and path.name == "summary.json":
            break
        if kind == OPENED and path.is_relative_to(images):
            reads[path.relative_to(images).as_posix()] += 1
    return reads
