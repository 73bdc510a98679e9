import os
import subprocess
import sys
import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from seg.data.reading_memory import ReadingMemory, Turn
from seg.errors import RequestError
from seg.pack import pack as pack_rows
from seg.pack.pack import rows_by_threads
from tests.conftest import WriteArchive
from tests.seg.pack.test_pack import plan_of

TOTAL = 100


class Watched:
    """Threads that take and give back, and the most that they held together."""

    def __init__(self) -> None:
        self.memory = ReadingMemory(TOTAL)
        self.lock = threading.Lock()
        self.held: dict[int, int] = {}
        self.order: list[int] = []

    def take(self, number: int, turn: Turn, wanted: int) -> Turn:
        turn.take(wanted)
        with self.lock:
            self.held[number] = wanted
            self.order.append(number)
            assert sum(self.held.values()) <= TOTAL or len(self.held) == 1, self.held
        return turn

    def leave(self, number: int, turn: Turn) -> None:
        with self.lock:
            del self.held[number]
        turn.leave()


def test_together_they_hold_the_total_at_most_or_one_is_alone_and_all_get_theirs_in_order() -> None:
    watched = Watched()
    wanted = np.random.default_rng(0).choice([1, 30, 60, 99, 100, 101, 5000], 300).tolist()
    with ThreadPoolExecutor(4) as pool:
        turns = [watched.memory.queue() for _ in wanted]
        taken = [pool.submit(watched.take, k, turns[k], wanted[k]) for k in range(len(wanted))]
        for number, turn in enumerate(taken):
            watched.leave(number, turn.result(timeout=60))
    assert watched.order == list(range(300))


def test_a_small_one_does_not_overtake_a_large_one_that_waits() -> None:
    watched = Watched()
    first, large, small = (watched.memory.queue() for _ in range(3))
    watched.take(0, first, 60)
    with ThreadPoolExecutor(2) as pool:
        late = pool.submit(watched.take, 2, small, 10)
        pool.submit(watched.take, 1, large, 90)
        watched.leave(0, first)
        late.result(timeout=60)
    assert watched.order == [0, 1, 2]


def test_who_leaves_the_line_without_taking_lets_the_next_pass_and_what_is_given_back_is_free() -> None:
    memory = ReadingMemory(TOTAL)
    gone, failed, first, second = (memory.queue() for _ in range(4))
    gone.leave()
    failed.keep(7)  # set aside before it was decoded: nothing is held
    first.take(100)
    first.keep(40)
    first.keep(90)  # it never grows
    second.await_room(60)
    second.take(60)
    for turn in (first, second):
        turn.leave()
    with memory.queue() as alone:
        alone.take(10**12)


def test_who_waits_when_the_memory_is_closed_is_told() -> None:
    memory = ReadingMemory(TOTAL)
    first, second = memory.queue(), memory.queue()
    first.take(100)
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(second.take, 1)
        memory.close()
        with pytest.raises(CancelledError):
            waits.result(timeout=60)


def test_rows_of_a_pack_are_the_same_where_each_image_has_to_be_alone(
    write_archive: WriteArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(write_archive(sequences=2, frames=5))
    expected = list(rows_by_threads(plan, 4))
    make_tight(monkeypatch)
    assert [row.equals(other) for row, other in zip(rows_by_threads(plan, 4), expected, strict=True)] == [
        True
    ] * 10


def test_a_bad_image_ends_a_pack_though_others_wait_for_their_turn(
    write_archive: WriteArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = write_archive(sequences=1, frames=12)
    plan = plan_of(archive)
    plan.samples[1].image.write_bytes(b"no image")
    make_tight(monkeypatch)
    with pytest.raises(RequestError, match="the content is no PNG"):
        list(rows_by_threads(plan, 4))


def make_tight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack_rows, "READING_BYTES", 1)
    monkeypatch.setattr(pack_rows, "THREAD_BYTES", 0)


MEASURE = """
import sys
from pathlib import Path
import cv2, numpy as np
from seg.data.background import Backgrounds
from seg.data.frames import FrameReader
from seg.data.images import FileBytes, decode_image
from seg.data.labels import decode_label
from seg.data.reading_memory import announced_bytes
from seg.recipe import Preprocessing

def high_water(reset=False):
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    line, = (l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith("VmHWM"))
    return int(line.split()[1]) * 1024

folder = Path(sys.argv[1])
for name, options in eval(sys.stdin.read()):
    settings = Preprocessing(**options)
    frames = [(str(k), folder / name) for k in range(8)]
    backgrounds = Backgrounds(settings, folder / "kept", lambda _: frames)
    before = high_water(reset=True)
    data = (folder / name).read_bytes()
    pixels = decode_image(data)
    mask = decode_label((folder / "mask.png").read_bytes(), folder / "mask.png", pixels.shape[:2], ("a", "b"))
    frame = FrameReader(settings, None, backgrounds).read(pixels, "s")
    peak = high_water() - before
    del pixels, frame, mask
    fresh = FrameReader(settings, None, Backgrounds(settings, folder / "kept", lambda _: []))
    print(name, announced_bytes(FileBytes(data, 0), None, fresh, "s"), peak)
    del data
    for kept in (folder / "kept").glob("*"):
        kept.unlink()
"""


@pytest.mark.long
def test_what_is_announced_is_what_reading_takes_and_not_three_times_as_much(tmp_path: Path) -> None:
    small = np.random.default_rng(0).integers(0, 60, (400, 400), dtype=np.uint8)
    gray = cv2.resize(small, (3200, 3200))
    assert cv2.imwrite(str(tmp_path / "mask.png"), np.zeros_like(gray))
    deep = gray.astype(np.uint16) * 257
    images = {"gray": gray, "deep": deep, "colour": cv2.merge([gray] * 3), "rich": cv2.merge([deep] * 3)}
    cases: list[tuple[str, dict[str, object]]] = []
    for name, pixels in images.items():
        endings = ["png", "tif"] + (["bmp", "jpg"] if pixels.dtype == np.uint8 else [])
        for ending in endings:
            assert cv2.imwrite(str(tmp_path / f"{name}.{ending}"), pixels)
        np.save(tmp_path / f"{name}.npy", pixels)
        channels = {"channels": 3 if pixels.ndim == 3 else 1}
        cases += [(f"{name}.{ending}", channels) for ending in [*endings, "npy"]]
        cases += [(f"{name}.png", channels | {"background_every": 1, "blur_px": 3})]
        cases += [
            (f"{name}.png", channels | {"normalisation": "percentile"}),
            (f"{name}.png", {"shrink": 2.0}),
        ]
    cases += [("deep.png", {"clahe_clip": 5.0}), ("gray.png", {"clahe_clip": 5.0, "blur_px": 3})]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, tmp_path],
        input=repr(cases),
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"},  # what is given back is not taken for the next
    )
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) == len(cases)
    slack = 2**22  # libraries' own, and the allocator's
    wrong = [
        (case, int(announced) / 1e6, int(peak) / 1e6)
        for case, (_, announced, peak) in zip(cases, lines, strict=True)
        if not int(peak) - slack <= int(announced) <= 3 * int(peak) + slack
    ]
    assert not wrong
