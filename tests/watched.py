"""A function in a process of its own, under limits: if it crashes or hangs, that is the answer."""

import multiprocessing
import os
import resource
import signal
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

PRELOAD = ["numpy", "cv2", "PIL.Image", "tifffile", "seg.data.labels"]
"""Imported once, so that a child that takes a dead one's place is there at once."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a call may take."""

    memory_bytes: int = 6 << 30
    """Address space beyond what the process has before its first call; MemoryError where it does not do."""
    cpu_s: float = 30.0
    """Of one call, ended by SIGPROF: other processes on the machine do not count."""
    wall_s: float = 300.0
    """Of one call that waits instead of computing."""


@dataclass(frozen=True, slots=True)
class Answer:
    """How a call ended."""

    kind: str
    """returned | raised | crashed | hung"""
    value: Any = None
    """Of one that returned."""
    detail: str = ""
    """Of another: the traceback, or the signal's name."""


class Watched:
    """One child process, started anew after each death; calls of several threads would mix."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._process: Any = None
        self._connection: Connection | None = None

    def call(self, function: Callable[..., Any], *arguments: Any) -> Answer:
        """Call a function of a module with arguments, all of them picklable, as is what it returns."""
        connection = self._start()
        try:
            connection.send((function, arguments))
            if not connection.poll(self.limits.wall_s):
                self.close()
                return Answer("hung", detail=f"nothing within {self.limits.wall_s:g} s")
            return connection.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self._process.join()
            number = -self._process.exitcode
            self.close()
            if number == signal.SIGPROF:
                return Answer("hung", detail=f"over {self.limits.cpu_s:g} s of CPU")
            return Answer("crashed", detail=signal.Signals(number).name if number > 0 else f"exit {-number}")

    def close(self) -> None:
        """End the child, whatever it does."""
        if self._connection is not None:
            self._connection.close()
            self._process.kill()
            self._process.join()
        self._process = self._connection = None

    def _start(self) -> Connection:
        if self._connection is None:
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(PRELOAD)
            self._connection, theirs = context.Pipe()
            self._process = context.Process(target=_serve, args=(theirs, self.limits), daemon=True)
            self._process.start()
            theirs.close()
        return self._connection


def call_each(
    function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]], limits: Limits | None = None
) -> Iterator[tuple[tuple[Any, ...], Answer]]:
    """Each tuple of arguments with its answer, in order, from as many children as there are cores."""
    idle: SimpleQueue[Watched] = SimpleQueue()
    children = [Watched(limits) for _ in os.sched_getaffinity(0)]
    for child in children:
        idle.put(child)

    def ask(some: tuple[Any, ...]) -> tuple[tuple[Any, ...], Answer]:
        child = idle.get()
        try:
            return some, child.call(function, *some)
        finally:
            idle.put(child)

    with ThreadPoolExecutor(len(children)) as pool, closing(_Closing(children)):
        yield from pool.map(ask, arguments)


@dataclass(frozen=True, slots=True)
class _Closing:
    children: list[Watched]

    def close(self) -> None:
        for child in self.children:
            child.close()


def _serve(connection: Connection, limits: Limits) -> None:
    """Answer calls until the other end is closed."""
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)  # libtiff and libpng tell every damage there
    with open("/proc/self/statm") as file:  # noqa: PTH123  # a path of the kernel
        held = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + limits.memory_bytes,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    while True:
        try:
            function, arguments = connection.recv()
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_PROF, limits.cpu_s)
        answer = _answer(function, arguments)
        signal.setitimer(signal.ITIMER_PROF, 0)
        connection.send(answer)


def _answer(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Answer:
    try:
        return Answer("returned", function(*arguments))
    except Exception:
        return Answer("raised", detail=traceback.format_exc())
