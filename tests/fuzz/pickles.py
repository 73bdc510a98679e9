"""Damaged and hostile pickles at the process that reads them: python -m tests.fuzz.pickles 30000.

Each is read by a fork of this process that does what the real one does, under an audit hook of Python's own:
it tells of every import, every file opened, every process started, and of every name that a pickle got.
"""

import collections
import io
import os
import pickle
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from seg.data import pickled
from seg.data.old_labels import DAMAGE, read_answers
from tests.fuzz.mutators import damage
from tests.seg.data.test_pickled import write_all, write_hostile

FORESEEN = ("resource.setrlimit", "sys.excepthook")
"""The second is CPython's own word, printed to nobody, on a bytearray that a cut pickle leaves half made."""
LONGEST_S = 20.0
"""Of one pickle: a hang."""


@dataclass(frozen=True, slots=True)
class Read:
    """What became of one pickle."""

    answers: bytes
    seen: list[str]
    """Events of the audit hook, and names that the pickle got, as "name NAME"."""
    status: int


def sound_pickles() -> list[bytes]:
    random = np.random.default_rng(0)
    values: list[Any] = [
        {"a.bmp": [(1, 2, 3, 4), (0, 0, 0, 0)], "b.bmp": ([(1.5, 2, 300_000, 2**70)], 17), "c": []},
        {"mask": random.integers(0, 2, (5, 7, 4), np.uint8), "by columns": np.asfortranarray(np.eye(3))},
        {"numbers": (np.int64(-3), np.float32(0.5), np.True_), "o": collections.OrderedDict(x=None, y=True)},
        np.array([[(1, 2, 3, 4)], []], object),
    ]
    return [pickle.dumps(value, protocol) for value in values for protocol in range(6)]


def read_in_fork(data: bytes, folder: Path) -> Read:
    """Read a pickle as `pickled.main` does."""
    (folder / "old.pkl").write_bytes(data)
    (answers, answers_in), (seen, seen_in) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(os.open(folder / "old.pkl", os.O_RDONLY), 0)
        os.dup2(answers_in, 1)
        sys.stdin, sys.stdout = os.fdopen(0), os.fdopen(1, "w")
        own_pages = int(Path("/proc/self/statm").read_text().split()[0])
        pickled.LOWEST_BYTES += own_pages * resource.getpagesize()  # the real one starts without ours
        watch(seen_in)
        pickled.main()
        os._exit(0)
    os.close(answers_in)
    os.close(seen_in)
    with os.fdopen(answers, "rb") as told, os.fdopen(seen, "rb") as events:
        return Read(told.read(), events.read().decode().splitlines(), os.waitpid(child, 0)[1])


def watch(file: int) -> None:
    """Write down from now on what this process does, and each name that a pickle gets."""
    find_class = pickled.Unpickler.find_class

    def find_and_tell(self: pickled.Unpickler, module: str, name: str, /) -> pickled.Name:
        found = find_class(self, module, name)
        known = [known for known, stand_in in pickled.NAMES.items() if stand_in is found]
        os.write(file, f"name {known[0] if known else 'of nobody'}\n".encode())
        return found

    def tell(event: str, arguments: tuple[object, ...]) -> None:
        if not event.startswith(FORESEEN):
            os.write(file, f"{event} {arguments!r:.80}\n".encode())

    pickled.Unpickler.find_class = find_and_tell
    sys.addaudithook(tell)


def judge(data: bytes, found: Read) -> tuple[str, list[str]]:
    """How it was read, and what must not be."""
    names = {event.removeprefix("name ") for event in found.seen if event.startswith("name ")}
    wrong = [event for event in found.seen if not event.startswith("name ")]
    wrong += sorted(names - pickled.NAMES.keys())
    try:
        read_answers(io.BytesIO(found.answers), len(data), lambda _: None)
        kind = "read"
    except pickled.Refused:
        kind = "refused by name"
    except DAMAGE as error:
        ended = os.WIFSIGNALED(found.status)
        kind = f"ended by {signal.Signals(os.WTERMSIG(found.status)).name}" if ended else "damaged"
        wrong += [f"no answer: {error}"] if isinstance(error, EOFError) and not ended else []
    return kind, wrong


def main(numbers: Sequence[int], seed: int = 0) -> int:
    """Print what became of the inputs of these numbers; the exit code is 1 where something must not be."""
    kinds, names, finds = Counter[str](), Counter[str](), list[str]()
    with TemporaryDirectory() as name:
        folder = Path(name)
        hostile = write_hostile(f"touch {folder / 'ran'}").values()
        bad = [data for value, _ in hostile for data in write_all(value)]
        seeds = [*sound_pickles() * (len(bad) // 24), *bad]  # as many of each
        for number in numbers:
            random = np.random.default_rng([seed, number])
            data, began = damage(seeds[random.integers(len(seeds))], seeds, random), time.monotonic()
            found = read_in_fork(data, folder)
            kind, wrong = judge(data, found)
            kinds[kind] += 1
            names.update(event.removeprefix("name ") for event in found.seen if event.startswith("name "))
            if time.monotonic() - began > LONGEST_S:
                wrong.append("it took long")
            if (folder / "ran").exists():
                wrong.append("IT RAN")
            finds += [f"{number}: {one}" for one in wrong]
    print(f"{len(numbers)} pickles, seed {seed}: {dict(kinds.most_common())}")
    print(f"names that they got: {dict(names.most_common())}")
    print(*finds[:20] or ["nothing that must not be"], sep="\n")
    return int(bool(finds))


if __name__ == "__main__":
    sys.exit(main(range(int(sys.argv[1]))))
