"""The job as a user has it: a window on a screen of its own, real keys and a real mouse."""

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from jobs import label
from seg.label import folder as label_folder
from seg.label.picture import GROUND, NOTICE, PAPER, Placement, box_colours
from seg.label.proposals import Proposer
from seg.label.shapes import Shapes, paint
from seg.label.window import TITLE
from tests import small
from tests.small import read_tree, start_job, write_image, write_model

wait_until = partial(small.wait_until, every_s=0.05)  # a look at the screen reads 3 MB
WINDOW_PX = (700, 640)
CLASSES = ("background", "cell", "dust")
SELECTED = (255, 0, 0)
"""The lines of the box that cv2.selectROI shows, blue first."""


class ClientMessage(ctypes.Structure):
    """Xlib's XClientMessageEvent."""

    _fields_ = (
        *(("type", ctypes.c_int), ("serial", ctypes.c_ulong), ("send_event", ctypes.c_int)),
        *(("display", ctypes.c_void_p), ("window", ctypes.c_ulong), ("message_type", ctypes.c_ulong)),
        *(("format", ctypes.c_int), ("data", ctypes.c_long * 5), ("padding", ctypes.c_long * 24)),
    )


class Screen:
    """A virtual screen, its keyboard and its mouse."""

    def __init__(self, folder: Path) -> None:
        # -noreset: else the server starts anew whenever its last window is gone, and refuses meanwhile
        command = ("Xvfb", "-displayfd", "1", "-screen", "0", "900x800x24", "-noreset", "-fbdir", folder)
        self.server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.server.stdout is not None
        self.name = f":{self.server.stdout.readline().strip()}"
        self.pixels_file = folder / "Xvfb_screen0"

    def do(self, *words: object) -> str:
        """An xdotool command, and what it prints."""
        command = ("xdotool", *map(str, words))
        return subprocess.run(
            command, env=os.environ | {"DISPLAY": self.name}, capture_output=True, text=True, check=False
        ).stdout

    def windows(self) -> list[str]:
        return self.do("search", "--onlyvisible", "--name", f"^{TITLE}$").split()

    def where(self, colour: tuple[int, int, int]) -> NDArray[np.bool_]:
        """Where the screen shows a colour (blue first), [H, W]: the XWD file that Xvfb keeps (XWDFile.h)."""
        data = self.pixels_file.read_bytes()
        header = np.frombuffer(data[:100], ">u4")
        start, width, height, line_bytes = header[0] + 12 * header[19], header[4], header[5], header[12]
        rows = np.frombuffer(data, "<u4", height * line_bytes // 4, start).reshape(height, -1)
        return (rows[:, :width] & 0xFFFFFF) == int.from_bytes(colour, "little")

    def find(self, colour: tuple[int, int, int]) -> tuple[int, int, int, int] | None:
        """Left, top, right, bottom of all pixels of a colour."""
        rows, columns = np.nonzero(self.where(colour))
        if not len(rows):
            return None
        return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1

    def wait_for(self, colour: tuple[int, int, int]) -> None:
        wait_until(lambda: self.find(colour), f"colour {colour}", within_s=20)

    def wait_without(self, colour: tuple[int, int, int]) -> None:
        wait_until(lambda: not self.find(colour), f"no colour {colour}", within_s=20)

    def close_window(self) -> None:
        """What the X button of a window manager sends."""
        lib = ctypes.CDLL("libX11.so.6")
        lib.XOpenDisplay.restype, lib.XInternAtom.restype = ctypes.c_void_p, ctypes.c_ulong
        display = ctypes.c_void_p(lib.XOpenDisplay(self.name.encode()))
        (window,) = map(int, self.windows())
        message = ClientMessage(type=33, window=window, format=32)
        message.message_type = lib.XInternAtom(display, b"WM_PROTOCOLS", 0)
        message.data[0] = lib.XInternAtom(display, b"WM_DELETE_WINDOW", 0)
        lib.XSendEvent(display, ctypes.c_ulong(window), 0, ctypes.c_long(0), ctypes.byref(message))
        lib.XCloseDisplay(display)

    def end(self) -> None:
        self.server.terminate()
        self.server.communicate()


@pytest.fixture(scope="module")
def screen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Screen]:
    for program in ("Xvfb", "xdotool"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    screen = Screen(tmp_path_factory.mktemp("screen"))
    yield screen
    screen.end()


class Job:
    """The job, started in a folder, and what a user does with it."""

    def __init__(self, screen: Screen, root: Path, *words: object) -> None:
        self.screen, self.root = screen, root
        size = ("--window-px", *WINDOW_PX)
        self.process = start_job("label", root, *size, *words, DISPLAY=screen.name, TMPDIR=root.parent)

    def begin(self) -> None:
        wait_until(self.is_shown, "the window at its size")
        self.screen.do("mousemove", 650, 620, "mousemove", 655, 625)  # in the window: there keys are heard

    def is_shown(self) -> bool:
        assert self.process.poll() is None, self.process.communicate()
        words, ground = self.screen.find(PAPER), self.screen.find(GROUND)
        return bool(words and ground) and (words[:3], ground[2:]) == ((0, 0, WINDOW_PX[0]), WINDOW_PX)

    def press(self, key: str, until: Callable[[], object], what: str = "") -> None:
        self.screen.do("key", key)
        wait_until(until, what or f"the effect of {key}", within_s=20)

    def draw(self, left: int, top: int, right: int, bottom: int) -> None:
        """A box over these pixels of the screen, from its bottom right."""
        before = self.saved()
        self.press("space", lambda: self.screen.find(NOTICE), "the words about drawing")
        self.screen.do("mousemove", right, bottom, "mousedown", 1, "mousemove", right - 20, bottom - 20)
        wait_until(lambda: self._drags_to(left, top), "the box under the mouse", within_s=20)
        self.screen.do("mouseup", 1, "key", "Return")
        wait_until(lambda: self.saved() != before, "the box", within_s=20)
        self.screen.wait_without(NOTICE)

    def _drags_to(self, left: int, top: int) -> bool:
        """Whether selectROI shows a box from here, in lines of two; else moves: a motion may be missed."""
        found = self.screen.find(SELECTED)
        if found is not None and found[:2] == (left - 1, top - 1):
            return True
        self.screen.do("mousemove", left + 1, top + 1, "mousemove", left, top)
        return False

    def saved(self) -> dict[str, str]:
        files = (self.root / "boxes").rglob("*.txt")
        return {path.relative_to(self.root / "boxes").as_posix(): path.read_text() for path in files}

    def lines(self, name: str) -> int:
        """Boxes of an image; -1: it has no label."""
        text = self.saved().get(name)
        return -1 if text is None else text.count("\n")

    def end(self) -> tuple[int, str]:
        """The exit code, and what was written to standard error before what comes next."""
        _, errors = self.process.communicate(timeout=20)
        return self.process.returncode, errors.partition("next: ")[0]


StartJob = Callable[..., Job]


@pytest.fixture
def start(screen: Screen) -> Iterator[StartJob]:
    jobs: list[Job] = []

    def begin(root: Path, *words: object) -> Job:
        jobs.append(Job(screen, root, *words))
        jobs[-1].begin()
        return jobs[-1]

    yield begin
    for job in jobs:
        job.process.kill()
        job.process.communicate()
    wait_until(lambda: not screen.windows(), "no window left")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three dim frames; in the first, of 16 bits, are two bright rectangles."""
    random = np.random.default_rng(0)
    for name in ("1.png", "2.png", "10.png"):
        pixels = random.integers(8000, 9000, (1500, 1800), dtype=np.uint16)
        if name == "1.png":
            for left, top, right, bottom in TRUTH:
                pixels[top:bottom, left:right] = 40000
        write_image(tmp_path / "data/images/s" / name, pixels if name == "1.png" else pixels.astype(np.uint8))
    (tmp_path / "data/classes.txt").write_text("background\ncell\ndust\n")
    return tmp_path / "data"


TRUTH = ((203, 151, 700, 633), (1100, 905, 1799, 1500))


def bright_rectangles(screen: Screen) -> list[tuple[int, int, int, int]]:
    """Left, top, right, bottom of the white rectangles on the screen, the left one first."""
    white = screen.where((255, 255, 255)).astype(np.uint8)
    _, _, found, _ = cv2.connectedComponentsWithStats(white)
    return sorted((x, y, x + w, y + h) for x, y, w, h, pixels in found[1:].tolist() if pixels > 1000)


def edges_of(text: str) -> list[tuple[int, float, float, float, float]]:
    """Class, left, top, right, bottom in own pixels, from a YOLO file by hand."""
    rows = [[float(word) for word in line.split()] for line in text.splitlines()]
    return [
        (int(kind), (x - w / 2) * 1800, (y - h / 2) * 1500, (x + w / 2) * 1800, (y + h / 2) * 1500)
        for kind, x, y, w, h in rows
    ]


def test_boxes_drawn_around_what_is_seen_are_where_it_is_in_the_file_and_survive_a_kill(
    start: StartJob, folder: Path, screen: Screen
) -> None:
    job = start(folder)
    wait_until(lambda: len(bright_rectangles(screen)) == 2, "the image")
    cell, dust = bright_rectangles(screen)
    job.draw(*cell)
    job.press("2", lambda: True)
    job.draw(*dust)
    job.process.kill()
    assert job.end()[0] == -signal.SIGKILL

    saved = edges_of(job.saved()["s/1.txt"])
    assert [kind for kind, *_ in saved] == [0, 1]
    own_per_shown = 1800 / (WINDOW_PX[0] - 16)
    for (_, *found), true in zip(saved, TRUTH, strict=True):
        assert np.abs(np.subtract(found, true)).max() <= own_per_shown + 0.5  # a pixel of the screen
        assert np.abs(np.subtract(found, np.round(found))).max() < 1e-4  # whole pixels
    copy = json.loads((folder / "boxes-json/s/1.json").read_text())
    corners = [[round(x), round(y), round(x2 - x), round(y2 - y)] for _, x, y, x2, y2 in saved]
    assert copy == {"boxes": corners, "classes": ["cell", "dust"]}

    colours = box_colours(CLASSES)
    job = start(folder)  # at the first image without a label
    assert screen.find(colours[1]) is not None  # its words
    job.press("p", lambda: len(bright_rectangles(screen)) == 2)
    left, _, right, bottom = cell
    shown = screen.where(colours[1])[:, left - 4 : right + 4].nonzero()[0]
    assert abs(shown.max() + 1 - bottom) <= 2
    job.press("d", lambda: job.lines("s/1.txt") == 1)  # the last
    assert edges_of(job.saved()["s/1.txt"]) == saved[:1]
    screen.do("key", "q")
    assert job.end() == (0, "")


def test_keys_confirm_undo_delete_and_move_and_looking_writes_nothing(
    start: StartJob, folder: Path, screen: Screen
) -> None:
    before = read_tree(folder)
    job = start(folder)
    job.press("s", lambda: not bright_rectangles(screen))
    job.press("p", lambda: len(bright_rectangles(screen)) == 2)
    job.press("u", lambda: screen.find(NOTICE))  # nothing to undo
    job.press("space", lambda: True)
    job.press("c", lambda: not screen.find(NOTICE))  # no box
    job.press("space", lambda: screen.find(NOTICE))
    job.press("c", lambda: not screen.find(NOTICE))
    assert read_tree(folder) == before

    first, second = bright_rectangles(screen)
    job.draw(*first)
    job.draw(*second)
    inside = (first[0] + 9, first[1] + 9)
    colour = box_colours(CLASSES)[1]
    thick = int(screen.where(colour).sum())
    screen.do("mousemove", *inside)
    wait_until(lambda: screen.where(colour).sum() > thick, "the pointed box")
    two = edges_of(job.saved()["s/1.txt"])
    job.press("d", lambda: job.lines("s/1.txt") == 1)
    assert edges_of(job.saved()["s/1.txt"]) == two[1:]
    job.press("u", lambda: job.lines("s/1.txt") == 2)
    assert edges_of(job.saved()["s/1.txt"]) == two
    job.press("n", lambda: not bright_rectangles(screen))
    assert set(job.saved()) == {"s/1.txt"}
    job.press("n", lambda: job.lines("s/2.txt") == 0)  # no box: all background
    job.press("u", lambda: job.lines("s/2.txt") == -1)
    job.press("u", lambda: job.lines("s/1.txt") == 1)  # and back there
    wait_until(lambda: len(bright_rectangles(screen)) == 2, "the first image")
    job.press("u", lambda: job.lines("s/1.txt") == -1)
    wait_until(lambda: not (folder / "boxes-json/s/1.json").exists(), "the second file of the two")
    assert read_tree(folder) == before
    screen.do("key", "q")
    assert job.end() == (0, "")


def test_a_box_may_mean_the_ellipse_in_it_and_is_seen_while_it_is_drawn(
    start: StartJob, folder: Path, screen: Screen
) -> None:
    job = start(folder, "--box", "ellipse")
    wait_until(lambda: len(bright_rectangles(screen)) == 2, "the image")
    left, top, right, bottom = bright_rectangles(screen)[0]
    job.press("space", lambda: screen.find(NOTICE), "the words about drawing")
    screen.do("mousemove", right, bottom, "mousedown", 1)

    def is_drawn() -> bool:
        """In pure blue; a window that is busy may miss a movement, but not all."""
        screen.do("mousemove", left + 20, top + 20, "mousemove", left, top)
        return screen.where((255, 0, 0)).sum() > right - left

    wait_until(is_drawn, "the box", within_s=60, every_s=0.2)
    screen.do("mouseup", 1, "key", "Return")
    file = folder / "masks/s/1.png"
    wait_until(file.exists, "the mask", within_s=20)
    mask, (x, y, x2, y2) = cv2.imread(file, cv2.IMREAD_UNCHANGED), TRUTH[0]
    own_per_shown = 1800 / (WINDOW_PX[0] - 16)
    rows, columns = np.nonzero(mask)
    found = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    assert np.abs(np.subtract(found, (x, y, x2, y2))).max() <= own_per_shown + 0.5
    assert abs((mask == 1).sum() / ((x2 - x) * (y2 - y)) - np.pi / 4) < 0.02
    assert job.saved() == {}
    screen.do("key", "q")
    assert job.end() == (0, "")


def test_a_queue_opens_its_images_and_no_others_in_its_order(
    start: StartJob, folder: Path, screen: Screen, tmp_path: Path
) -> None:
    queue = tmp_path / "review.csv"
    queue.write_text("rank,image,reason\n1,s/10.png,x\n2,s/1.png,x\n")
    job = start(folder, "--queue", queue)
    assert not bright_rectangles(screen)
    job.press("n", lambda: len(bright_rectangles(screen)) == 2)  # the first image, by name
    assert set(job.saved()) == {"s/10.txt"}
    job.press("n", lambda: job.lines("s/1.txt") == 0)  # the last: it stays
    assert set(job.saved()) == {"s/10.txt", "s/1.txt"}
    screen.do("key", "q")
    assert job.end() == (0, "")


def test_an_image_that_cannot_be_read_is_said_and_skipped_and_the_x_button_quits(
    start: StartJob, folder: Path, screen: Screen
) -> None:
    (folder / "images/s/2.png").write_bytes(b"a half")
    job = start(folder)
    job.press("n", lambda: screen.find(NOTICE))
    job.press("n", lambda: job.lines("s/10.txt") == 0)
    assert set(job.saved()) == {"s/1.txt", "s/10.txt"}
    screen.close_window()
    code, errors = job.end()
    said = "label: skipped s/2.png: the content is no PNG, BMP, TIFF, JPEG or NPY image\n"
    assert (code, errors) == (0, said)


@pytest.mark.parametrize("drawing", [False, True])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_end_with_4_also_while_a_box_is_drawn(
    start: StartJob, folder: Path, screen: Screen, number: signal.Signals, drawing: bool
) -> None:
    job = start(folder)
    if drawing:
        job.press("space", lambda: screen.find(NOTICE))
    job.process.send_signal(number)
    assert job.end() == (4, "label: stopped; the same command goes on from here\n")


def test_a_model_proposes_objects_and_accepting_saves_their_pixels(
    start: StartJob, folder: Path, screen: Screen, tmp_path: Path
) -> None:
    """Seconds go by while a process of its own loads torch and torchvision."""
    model = write_model(tmp_path / "model.safetensors", classes=CLASSES)
    shutil.rmtree(folder / "images")
    random = np.random.default_rng(5)
    write_image(folder / "images/a.png", random.integers(100, 255, (128, 192), dtype=np.uint8))
    proposer = Proposer(
        model,
        folder / "images",
        ["a.png"],
        read_image=partial(label_folder.read_image, folder / "images"),
        backgrounds=tmp_path,
        min_object_px=20,
    )
    proposed = proposer.propose("a.png", label_folder.read_image(folder / "images", "a.png"))
    assert len(proposed) > 1
    file, blank = folder / "masks/a.png", np.zeros((128, 192), np.uint8)

    def is_saved(shapes: Shapes) -> bool:
        """By the file, which is renamed into its place."""
        return file.exists() and np.array_equal(cv2.imread(file, cv2.IMREAD_UNCHANGED), paint(blank, shapes))

    job = start(folder, "--model", model, "--min-object-px", 20)
    screen.wait_without(NOTICE)  # predicting ...
    assert not file.exists()
    job.press("a", lambda: is_saved(proposed))
    job.press("u", lambda: not file.exists())
    largest = max(proposed, key=lambda shape: shape.pixels.sum())
    row, column = np.argwhere(largest.pixels)[largest.pixels.sum() // 2] + (largest.box.top, largest.box.left)
    words_px = int(screen.where(PAPER)[:, 0].sum())
    place = Placement.fit((128, 192), (WINDOW_PX[1], WINDOW_PX[0]), words_px)
    across, down = place.shown[1] / 192, place.shown[0] / 128
    x, y = place.left + round((column + 0.5) * across), place.top + round((row + 0.5) * down)

    def is_taken() -> bool:
        """A window that is busy may miss a click; one more, where nothing is proposed now, does nothing."""
        if not is_saved((largest,)):
            screen.do("mousemove", x + 1, y, "mousemove", x, y, "click", 1)
        return is_saved((largest,))

    wait_until(is_taken, "the proposal that was clicked", within_s=60, every_s=2)
    job.press("d", lambda: not file.exists())  # the mouse points at it
    assert job.saved() == {}
    screen.do("key", "q")
    assert job.end() == (0, "")


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert label.main([str(word) for word in words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("label: ")
    return line.removeprefix("label: ")


def test_a_wrong_request_is_2_and_one_sentence_and_nothing_is_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read_tree(tmp_path)
    monkeypatch.delenv("DISPLAY", raising=False)
    mend = "label on a machine with a desktop, or through ssh -X"
    assert refused(capsys, folder) == f"no display: DISPLAY is not set; {mend}"
    assert refused(capsys, tmp_path / "nowhere").startswith(f"archive {tmp_path}/nowhere is no folder;")
    (tmp_path / "empty").mkdir()
    line = refused(capsys, tmp_path / "empty")
    assert line == f"folder {tmp_path}/empty holds no image; give the folder of the images"
    line = refused(capsys, folder, "--window-px", 100, 500)
    assert line == "--window-px is 100 500; give 200 or more"
    queue = tmp_path / "review.csv"
    queue.write_text("image\ns/3.png\n")
    line = refused(capsys, folder, "--queue", queue)
    said = "the folder has no such image; give the folder that was scored"
    assert line == f"--queue {queue}, line 2: {said}"
    queue.unlink()
    assert read_tree(tmp_path) == before


def test_a_model_with_other_classes_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(label_folder, "require_display", lambda: None)
    model = write_model(tmp_path / "model.safetensors")
    assert refused(capsys, folder, "--model", model) == (
        f"{folder}/classes.txt names the classes background, cell, dust but the model knows background, "
        "disc; give the same classes, in the same order"
    )


def test_two_images_that_share_a_label_are_refused_also_where_a_queue_names_one(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(label_folder, "require_display", lambda: None)
    shutil.copy(folder / "images/s/1.png", folder / "images/s/1.bmp")
    (tmp_path / "review.csv").write_text("image\ns/1.png\n")
    line = refused(capsys, folder, "--queue", tmp_path / "review.csv")
    assert "s/1.txt would be of s/1.bmp and s/1.png; rename one" in line


@pytest.mark.long
def test_the_window_is_painted_also_while_the_machine_is_busy(start: StartJob, folder: Path) -> None:
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4)]
    try:
        for _ in range(10):
            job = start(folder)  # waits for the picture
            job.screen.do("key", "q")
            assert job.end() == (0, "")
    finally:
        for process in busy:
            process.kill()
            process.communicate()
