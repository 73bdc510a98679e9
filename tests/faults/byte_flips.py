"""One bit flips in a finished scoring's folder, in a pack, in a run's last/: what do the next commands say?

python -m tests.faults.byte_flips [--flips 1000] [--seed 0] [--only ledger run.json ...]

For each flip the folder is copied, and the user's commands run in it, in this process: report, status, score;
of a pack and of last/ what a training does with them when it begins. Each ends with the figures of before, or
with an error or warning that names the file; wrong figures and exit code 0 (or 3) are what must not be.
"""

import contextlib
import io
import json
import os
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from seg.errors import DataWarning, RequestError
from tests.fuzz import files
from tests.fuzz.targets import TARGETS
from tests.watched import Limits, call_each

BATCH = 10
LIMITS = Limits(memory_bytes=8 << 30, cpu_s=300, wall_s=900)
SCORES = ("ledger", "objects", "quarantine", "note", "suspects", "run.json", "summary.json")
TRAINING = {"pack": "pack", "pack, time kept": "pack", "last/": "run's last/"}
"""Fuzz targets that read what a training finds; time kept: as a disk loses a bit, without a write."""
KINDS = (*SCORES, *TRAINING)
COLUMNS = ("flips", "same", "same, told", "refused", "unnamed", "wrong", "wrong, told", "crashed", "hung")
FAILURES = ("unnamed", "wrong", "wrong, told", "crashed", "hung", "raised")


@dataclass(frozen=True, slots=True)
class Flip:
    """One bit, and how a command ended after it."""

    kind: str
    bit: int
    command: str
    verdict: str
    said: str
    """What the command printed as errors and warnings, and which figures are others."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    code: int
    said: str
    figures: Any


@dataclass(frozen=True, slots=True)
class Scene:
    """A scoring to copy, and what its commands say while it is whole."""

    archive: Path
    model: Path
    out: Path


def prepare(place: Path) -> Scene:
    """Seven images, one of them damaged, in parts of two; the same unfinished, with two of them noted."""
    from seg.ledger import ledger
    from seg.score.blame import DECODE, MODEL, InFlight, Note, write_suspects
    from seg.storage import as_place
    from tests.conftest import write_discs
    from tests.small import write_model

    scene = Scene(write_discs(place / "archive"), write_model(place / "model.safetensors"), place / "out")
    images = scene.archive / "images"
    (images / "s0" / "9.png").write_bytes((images / "s0" / "0.png").read_bytes()[:300])
    ledger.PART_ROWS = 2
    run_score(scene, scene.out, "--limit", "5")
    inflight = as_place(scene.out / "inflight")
    write_suspects(inflight, {"s1/1.png": Note(MODEL, 2)})
    InFlight(inflight, "0123-1").begin("s1/2.png", 1, stage=DECODE)
    shutil.copytree(scene.out, place / "unfinished")
    run_score(scene, scene.out)
    return scene


def run_score(scene: Scene, out: Path, *words: str) -> Ended:
    """`score`, and the figures of its summary.json."""
    from jobs.score import main

    _load_model_once()
    words = (str(scene.archive), "--model", str(scene.model), "--out", str(out), *words)
    code, said = _run(main, (*words, "--workers", "0", "--batch", "1", "--export", "coco"))
    return Ended(code, said, None if code not in (0, 3) else _figures(out))


def run_report(scene: Scene, out: Path) -> Ended:
    """`report`, and the figures on its page."""
    from jobs.report import main
    from seg.storage import as_place
    from tests.fuzz.files import report_figures

    code, said = _run(main, (str(out),))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they were said once
        return Ended(code, said, report_figures(as_place(out)) if code == 0 else None)


def run_status(scene: Scene, out: Path) -> Ended:
    """`status`, and what it prints."""
    from jobs.status import main

    code, said = _run(main, (str(out), "--json"))
    return Ended(code, "" if code in (0, 3) else said, said if code in (0, 3) else None)


COMMANDS: dict[str, Callable[[Scene, Path], Ended]] = {
    "report": run_report,
    "status": run_status,
    "score": run_score,
}


def _run(main: Callable[[Sequence[str]], int], words: Sequence[str]) -> tuple[int, str]:
    """Exit code, and what was printed as errors and warnings (of status: all)."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()) as printed:
        code = main(words)
    return code, printed.getvalue() if "--json" in words and code in (0, 3) else said.getvalue()


def _figures(out: Path) -> dict[str, Any]:
    """What a scoring says it found, without its times; and how often each image is in its tables."""
    from seg.ledger.ledger import Ledger

    summary = json.loads((out / "summary.json").read_text())
    names = ("labelled", "pixels", "classes", "confusion", "miou", "iou", "objects", "quarantine_reasons")
    rows = [row for table in Ledger(out).rows(["image", "confusion"]) for row in table.to_pylist()]
    objects = Counter(name for table in Ledger(out).objects(["image"]) for name in table["image"].to_pylist())
    return {name: summary[name] for name in names} | {
        "images": summary["images_scored"] + summary["images_skipped"],
        "rows": sorted((row["image"], row["confusion"]) for row in rows),
        "objects_rows": sorted(objects.items()),
        "masks": sorted(path.relative_to(out).as_posix() for path in (out / "masks").rglob("*.png")),
    }


@cache
def _load_model_once() -> None:
    """The model is 50 MB, the same for every flip, and not what is flipped."""
    from seg import model_file
    from seg.score import plan

    model_file.load_model, plan.read_card = cache(model_file.load_model), cache(plan.read_card)


def target(out: Path, kind: str) -> Path:
    """The file whose bits flip."""
    named = {"note": "inflight/0123-1.json", "suspects": "inflight/suspects.json"}
    path = out / named.get(kind, kind)
    return path if path.is_file() else sorted(path.glob("*.parquet"))[0]


def flip_batch(place: Path, kind: str, seed: int, first: int, count: int) -> list[Flip]:
    """What each command says after each of so many flips."""
    tempfile.tempdir = str(place)
    os.environ |= {"RAY_ADDRESS": "local", "FRINGE_CACHE": str(place / "cache")}
    if kind in TRAINING:
        (sound,) = TARGETS[TRAINING[kind]].seeds()
        return [_look_at_training(kind, sound, bit) for bit in _bits(len(sound), kind, seed, first, count)]
    scene = Scene(place / "archive", place / "model.safetensors", place / "out")
    folder = place / ("unfinished" if kind in ("note", "suspects") else "out")
    before = {name: _whole(place, folder, name) for name in _commands(kind)}
    bits = _bits(target(folder, kind).stat().st_size, kind, seed, first, count)
    return [flip for bit in bits for flip in _look(scene, folder, kind, bit, before)]


def _bits(size: int, kind: str, seed: int, first: int, count: int) -> list[int]:
    """Some of the bits of a file, each once."""
    order = np.random.default_rng([seed, *kind.encode()]).permutation(8 * size)
    return order[first : first + count].tolist()


def _flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def _look_at_training(kind: str, sound: bytes, bit: int) -> Flip:
    """What a training makes of a file with this bit flipped, against what it makes of the sound one."""
    read = TARGETS[TRAINING[kind]].read
    was = read(sound)
    keep_time = files.keeping_time() if kind.endswith("time kept") else contextlib.nullcontext()
    with keep_time, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            now = Ended(0, "", read(_flipped(sound, bit)))
        except RequestError as error:
            now = Ended(2, str(error), None)
        except Exception as error:  # a job's exit code 1
            now = Ended(1, f"{type(error).__name__}: {error}", None)
    said = now.said + " ".join(str(one.message) for one in caught if issubclass(one.category, DataWarning))
    name = ".arrow" if "pack" in kind else "last/"
    if kind == "last/" and name in said and not now.code:
        return Flip(kind, bit, "train", "same, told", said)  # it goes on from the state before, and says so
    return Flip(kind, bit, "train", *judge(Ended(0, "", was), replace(now, said=said), name))


def _commands(kind: str) -> tuple[str, ...]:
    return ("score",) if kind in ("note", "suspects") else tuple(COMMANDS)


@cache
def _whole(place: Path, sound: Path, command: str) -> Ended:
    """How a command ends in the folder as it is."""
    scene = Scene(place / "archive", place / "model.safetensors", place / "out")
    with tempfile.TemporaryDirectory() as folder:
        out = shutil.copytree(sound, Path(folder) / "out")
        return COMMANDS[command](scene, out)


def _look(scene: Scene, sound: Path, kind: str, bit: int, before: dict[str, Ended]) -> Iterator[Flip]:
    for command, was in before.items():
        with tempfile.TemporaryDirectory() as folder:
            out = shutil.copytree(sound, Path(folder) / "out")
            path = target(out, kind)
            path.write_bytes(_flipped(path.read_bytes(), bit))
            verdict, said = judge(was, COMMANDS[command](scene, out), path.name)
            yield Flip(kind, bit, command, verdict, said)


def judge(was: Ended, now: Ended, name: str) -> tuple[str, str]:
    """same | same, told | refused | unnamed | wrong | wrong, told; and what shows it."""
    words = (name, name.removesuffix(".parquet"), *(["holds another run"] if name == "run.json" else []))
    is_named = any(word in now.said for word in words)
    if now.code not in (0, 3):
        return "refused" if is_named else "unnamed", f"exit {now.code}: {now.said[-300:]}"
    if (now.code, now.figures) == (was.code, was.figures):
        return "same, told" if is_named else "same", ""
    return "wrong, told" if is_named else "wrong", f"{_difference(was, now)}; said {now.said[:200]!r}"


def _difference(was: Ended, now: Ended) -> str:
    if was.code != now.code:
        return f"exit {now.code}, was {was.code}"
    if isinstance(was.figures, dict):
        return ", ".join(key for key in was.figures if was.figures[key] != now.figures[key])
    return "another page or status"


def run(place: Path, kinds: Sequence[str], flips: int, seed: int) -> Iterator[Flip]:
    """All flips of a scene that was prepared there."""
    batches = (
        (place, kind, seed, first, min(BATCH, flips - first))
        for kind in kinds
        for first in range(0, flips, BATCH)
    )
    for (_, kind, _, first, _), answer in call_each(flip_batch, batches, LIMITS):
        if answer.kind == "returned":
            yield from answer.value
        else:
            yield Flip(kind, first, "a batch", answer.kind, answer.detail)


def table(flips: Sequence[Flip]) -> str:
    """A line a file and command."""
    rows: dict[tuple[str, str], Counter[str]] = {}
    for flip in flips:
        rows.setdefault((flip.kind, flip.command), Counter()).update(["flips", flip.verdict])
    lines = [f"| file | command | {' | '.join(COLUMNS)} |", "|" + " --- |" * (len(COLUMNS) + 2)]
    for (kind, command), row in rows.items():
        lines.append(f"| {kind} | {command} | {' | '.join(str(row[column]) for column in COLUMNS)} |")
    return "\n".join(lines)


def main(flips: int = 1000, seed: int = 0, only: tuple[str, ...] = KINDS, told: int = 10) -> int:
    """Print the first `told` failures of each file and command, and the table; exit code 1: there is one.

    flips: of each file; all its bits, where it has fewer.
    """
    with tempfile.TemporaryDirectory(prefix="fringe-flips-") as folder:
        ((_, prepared),) = call_each(prepare, [(Path(folder),)], LIMITS)
        assert prepared.kind == "returned", prepared.detail
        found: list[Flip] = []
        seen: Counter[tuple[str, str, str]] = Counter()
        for flip in run(Path(folder), only, flips, seed):
            found.append(flip)
            key = (flip.kind, flip.command, flip.verdict)
            seen[key] += 1
            if flip.verdict in FAILURES and seen[key] <= told:
                print(f"{flip.kind}, bit {flip.bit}, {flip.command}: {flip.verdict}: {flip.said}", flush=True)
    print(table(found))
    return 1 if any(flip.verdict in FAILURES for flip in found) else 0


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
