"""Which of the product's files does a run enter between parsing and exit? Counted by tracing.

python -m bench.rooms [--checkout DIR] [--jobs train score tune]

A file is entered where a function of it is called, in any thread of the job's own process, after its options
were parsed. Each job runs twice in a process and the second run counts, so that what imports run does not. A
stay is a stretch of the main thread's calls within one file. What Ray's workers enter is not seen.
"""

import json
import os
import shlex
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Literal

import tyro

Job = Literal["train", "score", "tune"]

PRODUCT = ("seg", "cluster", "jobs")
SMALL = (
    "--preprocessing.shrink 1 --crops.size-px 64 64 --crops.per-image 1 --epochs 1 "
    "--tiling.crop-px 64 64 --tiling.halo-px 16"
)


class Rooms:
    """The files of a checkout that calls enter, while it is open."""

    def __init__(self, checkout: Path) -> None:
        self.checkout, self.is_open = checkout, False
        self.entered: set[str] = set()
        self.stays: list[str] = []
        self._files: dict[CodeType, str] = {}

    def note(self, frame: FrameType, event: str, _: Any) -> None:
        """What `sys.setprofile` calls."""
        if not self.is_open or event != "call":
            return
        code = frame.f_code
        if code not in self._files:
            self._files[code] = self._file(code)
        if file := self._files[code]:
            self.entered.add(file)
            if threading.current_thread() is threading.main_thread() and self.stays[-1:] != [file]:
                self.stays.append(file)

    def _file(self, code: CodeType) -> str:
        path = Path(code.co_filename)
        if code.co_name == "<module>" or path.suffix != ".py" or not path.is_relative_to(self.checkout):
            return ""
        name = path.relative_to(self.checkout)
        return str(name) if name.parts[0] in PRODUCT else ""


def trace(checkout: Path, job: Job, words: Sequence[str], folder: Path) -> None:
    """Run a job twice here, into folder/first and folder/second; prints what the second entered."""
    rooms, parse = Rooms(checkout), tyro.cli

    def parse_and_open(*options: Any, **named: Any) -> Any:
        args = parse(*options, **named)
        rooms.is_open = second
        return args

    tyro.cli = parse_and_open  # type: ignore[assignment]
    main = import_module(f"jobs.{job}").main
    threading.setprofile(rooms.note)
    sys.setprofile(rooms.note)
    for second in (False, True):
        if code := main([*words, "--out", str(folder / ("second" if second else "first"))]):
            raise SystemExit(f"{job} ended with exit code {code}: not counted")
    sys.setprofile(None)
    print(json.dumps({"job": job, "files": sorted(rooms.entered), "stays": len(rooms.stays)}))


def main(
    checkout: Path = Path(), jobs: tuple[Job, ...] = ("train", "score", "tune"), traced: Path | None = None
) -> None:
    """Count for some jobs of a checkout. traced: for the process that this one starts, the job's folder."""
    checkout = checkout.resolve()
    if traced is not None:
        return trace(checkout, jobs[0], json.loads(sys.stdin.read()), traced)
    with tempfile.TemporaryDirectory() as folder:
        size = "--sequences 3 --frames 4 --size 128"
        run(checkout, "-m", "jobs.simulate", f"{folder}/data", *shlex.split(size))
        data = ["interferogram-small", "--data", f"{folder}/data", *shlex.split(SMALL)]
        model = f"{folder}/train/second/best.safetensors"
        words = {
            "train": [*data, "--workers", "0"],
            "score": [f"{folder}/data", "--model", model, "--workers", "0"],
            "tune": [*data, "--trials", "2"],
        }
        for job in jobs:
            if job == "score" and "train" not in jobs:
                run(checkout, "-m", "jobs.train", *words["train"], "--out", f"{folder}/train/second")
            own = ["--checkout", str(checkout), "--jobs", job, "--traced", f"{folder}/{job}"]
            found = json.loads(run(checkout, __file__, *own, stdin=json.dumps(words[job])).splitlines()[-1])
            print(f"{job}: {len(found['files'])} files in {found['stays']} stays", flush=True)
            print(*found["files"], sep=" ", flush=True)
    return None


def run(checkout: Path, *words: str, stdin: str = "") -> str:
    """What a process of this Python, whose modules are the checkout's, writes."""
    own = {"PYTHONPATH": str(checkout), "RAY_ADDRESS": "local", "OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        [sys.executable, *words],
        cwd=checkout,
        env=os.environ | own,
        input=stdin,
        text=True,
        capture_output=True,
        check=False,
    )
    if process.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {process.returncode}:\n{process.stderr[-2000:]}")
    return process.stdout


if __name__ == "__main__":
    tyro.cli(main)
