"""Jobs as processes of their own that start in a second: a server that has imported it all forks them."""

import multiprocessing
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

Disturb = Callable[[], None]

PRELOAD = [
    *("torch", "torch._dynamo", "torchvision", "pandas", "tensorboardX", "tyro._backends"),
    *("matplotlib.backends.backend_agg", "matplotlib.figure", "matplotlib.font_manager"),
    *("seg.train.training", "seg.score.job", "seg.score.summary", "seg.figures.plots"),
    *("cluster.session", "cluster.score", "cluster.train", "jobs.tables", "jobs.score", "jobs.train"),
]
"""What a job would import, or what it imports would where that is there."""


def patient(within_s: float) -> float:
    """The seconds times $PATIENCE, for a machine that is shared while nothing is measured on it."""
    return within_s * float(os.environ.get("PATIENCE", "1"))


@dataclass(frozen=True, slots=True)
class Job:
    """A job in a process of its own."""

    process: BaseProcess
    log: Path
    """What it says, on both streams."""

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        return self.process.is_alive()

    def wait(self, within_s: float = 120) -> int | None:
        """Its exit code, once it has ended by itself; within_s: as of `patient`."""
        self.process.join(patient(within_s))
        assert not self.is_alive, f"not within {patient(within_s):.0f} s: {self.said}"
        return self.process.exitcode

    def kill(self) -> None:
        """Kill -9."""
        self.process.kill()
        self.process.join()

    @property
    def said(self) -> str:
        """What it has said."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""


def fork_job(
    verb: str, *words: object, log: Path, disturb: Disturb | None = None, **variables: object
) -> Job:
    """Start a job on one thread. disturb: called in its process before it begins, picklable."""
    log.unlink(missing_ok=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    environment = {"RAY_ADDRESS": "local"} | {name: str(value) for name, value in variables.items()}
    arguments = (verb, [str(word) for word in words], log, environment, disturb)
    process = context.Process(target=_run_here, args=arguments)
    process.start()
    return Job(process, log)


def _run_here(
    verb: str, words: list[str], log: Path, environment: dict[str, str], disturb: Disturb | None
) -> None:
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ |= environment
    torch.set_num_threads(1)
    if disturb:
        disturb()
    sys.exit(import_module(f"jobs.{verb}").main(words))


@dataclass(slots=True)
class DieAt:
    """Ends the process that calls it, as kill -9 does, before or after the n-th file gets its name."""

    boundary: int | None
    passed: int = 0

    def __call__(self) -> None:
        rename = Path.replace

        def replace_or_die(file: Path, target: Path) -> Path:
            if not {"inflight", "masks"} & set(target.parts):  # not those of each image
                self.pass_one()
                rename(file, target)
                self.pass_one()
                return target
            return rename(file, target)

        Path.replace = replace_or_die  # type: ignore[method-assign]

    def pass_one(self) -> None:
        """Die or live."""
        if self.passed == self.boundary:
            os._exit(77)
        self.passed += 1
