"""The window of labelling: it shows the state, and turns keys and the mouse into changes of it."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from ctypes import POINTER, byref, c_char_p, c_int, c_long, c_uint, c_ulong, c_void_p

import cv2

from seg.data.boxes import Box
from seg.data.images import Pixels
from seg.errors import ImageError, RequestError
from seg.label import picture
from seg.label.labelling import Labelling, Predicting, Propose
from seg.label.picture import DIM, INK, NOTICE, Colour, Picture, Placement, Words
from seg.label.shapes import Shape
from seg.screen import say
from seg.words import plural

MAP_NOTIFY = 19
DEPTH = 3
"""Levels at which a window is looked for: the window manager's frame, and a frame in that."""
Lines = list[list[Words]]
TITLE = "Fringe labels"
TICK_MS = 30
"""How often the window looks for a finished prediction, a new size, Ctrl-C."""
ANNOUNCED = range(10, 101, 10)
"""Turns after which the window is announced again: when the rush of its beginning is over, to be sure."""


def require_display() -> None:
    """RequestError: there is no screen to show a window on.

    Without one OpenCV's window library ends the process that asks, so another process asks first.
    """
    mend = "label on a machine with a desktop, or through ssh -X"
    if not os.environ.get("DISPLAY"):  # under Wayland too: OpenCV's wheel speaks X11 alone
        raise RequestError(f"no display: DISPLAY is not set; {mend}")
    probe = (sys.executable, "-c", "import cv2; cv2.namedWindow('Fringe')")
    tried = subprocess.run(probe, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if tried.returncode:
        cause = (tried.stderr.strip().splitlines() or ["no window can be opened"])[0].strip()
        raise RequestError(f"no display: DISPLAY is {os.environ['DISPLAY']} ({cause}); {mend}")


@contextmanager
def noted_interrupts() -> Iterator[threading.Event]:
    """For the length of a block Ctrl-C sets an event and raises nothing.

    Python may see it first inside a mouse callback, and what that raises OpenCV prints and forgets.
    """
    interrupted = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: interrupted.set())
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def ended_by_signals(leave: Callable[[], None]) -> Iterator[None]:
    """For the length of a block that waits inside OpenCV, where Python cannot raise: a signal calls `leave`.

    Python writes the number of a signal that it handles to a socket at once; a thread waits there for it.
    """
    heard, said = socket.socketpair()
    said.setblocking(False)

    def wait_for_signal() -> None:
        if heard.recv(1):  # nothing: the block has ended
            leave()

    thread = threading.Thread(target=wait_for_signal, daemon=True)
    before = signal.set_wakeup_fd(said.fileno())
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        said.close()
        thread.join()
        heard.close()


class MapEvent(ctypes.Structure):
    """Xlib's XMapEvent, with the padding of an XEvent."""

    _fields_ = (
        *(("type", c_int), ("serial", c_ulong), ("send_event", c_int), ("display", c_void_p)),
        *(("event", c_ulong), ("window", c_ulong), ("override_redirect", c_int), ("padding", c_long * 24)),
    )


def announce_window(title: str) -> None:
    """Tell the windows of this title once more that they are on the screen, and to be painted.

    OpenCV 5.0's Qt can lose the events that say so while it reads the replies to its own requests: 16 of 60
    windows on a busy machine of 2 cores stayed black for good. Without a local X server nothing is done.
    """
    name = os.environ.get("DISPLAY", "")
    try:
        lib = ctypes.CDLL("libX11.so.6")
    except OSError:
        return
    lib.XOpenDisplay.restype, lib.XDefaultRootWindow.restype = c_void_p, c_ulong
    lib.XSetErrorHandler.restype, lib.XSetErrorHandler.argtypes = c_void_p, (c_void_p,)
    if not name.startswith(":") or not (opened := lib.XOpenDisplay(name.encode())):
        return  # over a network a look at each window would take seconds
    display = c_void_p(opened)
    ignore = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p)(lambda *_: 0)
    before = lib.XSetErrorHandler(ctypes.cast(ignore, c_void_p))  # Xlib's own ends the process
    for window in _find_windows(lib, display, lib.XDefaultRootWindow(display), title.encode(), DEPTH):
        event = MapEvent(type=MAP_NOTIFY, event=window, window=window)
        lib.XSendEvent(display, c_ulong(window), 0, c_long(0), byref(event))
        lib.XClearArea(display, c_ulong(window), 0, 0, 0, 0, 1)  # all of it, with an Expose event
    lib.XSync(display, 0)
    lib.XSetErrorHandler(before)
    lib.XCloseDisplay(display)


def _find_windows(
    lib: ctypes.CDLL, display: c_void_p, parent: int, title: bytes, depth: int
) -> Iterator[int]:
    root, above, count, children, name = c_ulong(), c_ulong(), c_uint(), POINTER(c_ulong)(), c_char_p()
    tree = byref(root), byref(above), byref(children), byref(count)
    if not lib.XQueryTree(display, c_ulong(parent), *tree) or not children:
        return
    found = [children[place] for place in range(count.value)]
    lib.XFree(children)
    for window in found:
        if lib.XFetchName(display, c_ulong(window), byref(name)) and name.value == title:
            yield window
        elif depth > 1:
            yield from _find_windows(lib, display, window, title, depth - 1)


def describe_image(labelling: Labelling, pixels: Pixels, colours: Sequence[Colour]) -> Lines:
    """What is shown and how it is labelled; then the classes in their colours, the next box's in brackets."""
    if labelling.label is None:
        state = "not labelled"
    elif labelling.boxes:
        state = plural(len(labelling.boxes), "box", "boxes")
    else:
        state = plural(len(labelling.shapes), "object") if labelling.shapes else "all background"
    heading: list[Words] = [
        (f"{labelling.place + 1}.", INK),
        (labelling.image, INK),
        (f"{pixels.shape[1]} x {pixels.shape[0]}, {pixels.dtype.itemsize * 8} bits", DIM),
        (state, INK),
        (f"{len(labelling.labelled)} of {len(labelling.images)} labelled", DIM),
    ]
    classes: list[Words] = [("class of the next box:", DIM)]
    for kind, name in enumerate(labelling.files.classes[1:], start=1):
        chosen = kind == labelling.kind
        classes.append((f"[{kind} {name}]" if chosen else f"{kind} {name}", colours[kind]))
    return [heading, classes]


def list_keys(labelling: Labelling, notice: str) -> Lines:
    """The keys that do something now; then what there is to say."""
    other = "ellipses" if labelling.form == "filled" else "boxes"
    keys = [f"SPACE draw {_describe_form(labelling)}", f"e {other}"]
    keys += ["n next", "s skip", "p previous", "u undo", "d delete", "q quit"]
    if labelling.label is None:
        keys[2] = "n next: all background"
    if len(labelling.files.classes) > 2:
        keys.insert(1, "1-9 or TAB class")
    if labelling.proposals:
        keys.insert(1, f"a accept {plural(len(labelling.proposals), 'proposal')}")
        keys.insert(2, "click accept one")
    return [[(key, INK) for key in keys], [(notice, NOTICE)]]


def explain_drawing(labelling: Labelling) -> Lines:
    """What to do while a box is drawn, in as many lines as the keys."""
    name = labelling.files.classes[labelling.kind]
    words = (
        f"{name}: drag {_describe_form(labelling)} with the mouse",
        "SPACE or ENTER takes it",
        "c cancels",
    )
    return [[(word, NOTICE) for word in words], []]


def _describe_form(labelling: Labelling) -> str:
    return "a box" if labelling.form == "filled" else "the box of an ellipse"


class LabelWindow:
    """Shows a labelling until the user quits."""

    def __init__(
        self,
        labelling: Labelling,
        read_image: Callable[[str], Pixels],
        propose: Propose | None,
        *,
        leave: Callable[[], None],
    ) -> None:
        """`leave` ends the process; it is called for Ctrl-C and SIGTERM while Python cannot raise them."""
        self.labelling, self.read_image, self.leave = labelling, read_image, leave
        self.predicting = Predicting(labelling, propose) if propose else None
        self.colours = picture.box_colours(labelling.files.classes)
        self.notice = ""
        self.mouse: tuple[int, int] | None = None
        self.clicked: tuple[int, int] | None = None
        """Where, since it was last looked at."""
        self.placement: Placement | None = None
        self._banner: tuple[int, ...] = (0, 0)
        self._opened: tuple[str, Pixels] | None = None
        self._scaled: tuple[tuple[str, tuple[int, int], bool], Picture] | None = None
        self._shown: tuple[object, ...] = ()
        self.commands: dict[str, Callable[[], object]] = {
            " ": self.draw_box,
            "b": self.draw_box,
            "n": self.confirm,
            "s": lambda: self.go(1),
            "p": lambda: self.go(-1),
            "u": lambda: self._say_unless(labelling.undo(), "nothing to undo"),
            "d": lambda: self._say_unless(labelling.delete(self._point()), "no object to delete here"),
            "e": labelling.change_form,
            "a": lambda: self._say_unless(labelling.accept(), "no proposals to accept"),
            "\t": lambda: labelling.choose_class(labelling.kind % (len(labelling.files.classes) - 1) + 1),
            **{str(kind): lambda kind=kind: labelling.choose_class(kind) for kind in range(1, 10)},
        }

    def run(self, window_px: tuple[int, int]) -> None:
        """Show the window, of this width and height at first, until q, its X button or Ctrl-C."""
        try:
            cv2.namedWindow(TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_FREERATIO | cv2.WINDOW_GUI_NORMAL)
            cv2.resizeWindow(TITLE, *window_px)
            cv2.setMouseCallback(TITLE, self._see_mouse)
            with noted_interrupts() as interrupted:
                turn = 1
                while self._turn():
                    if interrupted.is_set():
                        raise KeyboardInterrupt
                    if turn in ANNOUNCED:
                        announce_window(TITLE)
                    turn += 1
        finally:
            cv2.destroyAllWindows()
            if self.predicting:
                self.predicting.close()

    def _turn(self) -> bool:
        """Show what is new, do what was asked; False: the user quits."""
        pixels = self._open_image()
        if self.predicting:
            self.notice = self.predicting.look(pixels) or self.notice
        self._show()
        key = cv2.waitKeyEx(TICK_MS)
        letter = chr(key).lower() if 0 <= key < 128 else ""
        if letter == "q" or not _is_open():
            return False
        if self.clicked and self.placement is not None:
            self.labelling.accept(self.placement.point_to_own(*self.clicked))
        self.clicked = None
        if letter in self.commands:
            self.notice = ""
            self.commands[letter]()
        return True

    def _open_image(self) -> Pixels:
        """The current image, read unless it is open; one that cannot be read is named and passed."""
        while self._opened is None or self._opened[0] != self.labelling.image:
            image = self.labelling.image
            try:
                pixels = self.read_image(image)
                self.labelling.open((pixels.shape[0], pixels.shape[1]))
                self._opened = (image, pixels)
            except ImageError as error:
                self.notice = f"skipped {image}: {error}"
                say(f"label: {self.notice}")
                self.labelling.set_aside(str(error))
        return self._opened[1]

    def _show(self) -> None:
        """Draw the picture anew if anything in it has changed."""
        labelling, pointed, size = self.labelling, self.labelling.find_pointed(self._point()), _window_size()
        waiting = self.predicting is not None and labelling.wants_proposals
        notice = " ".join(words for words in ("predicting ..." if waiting else "", self.notice) if words)
        marks = (labelling.label is None, labelling.boxes, labelling.shapes, labelling.proposals)
        state = (labelling.image, marks, labelling.kind, labelling.form, pointed, notice, size)
        if self._shown != state:
            self._shown = state
            cv2.imshow(TITLE, self._draw(size, list_keys(labelling, notice), pointed))

    def _draw(
        self,
        size: tuple[int, int],
        lines: Lines,
        pointed: Box | Shape | None = None,
        *,
        below_box: bool = False,
    ) -> Picture:
        """The picture, [H, W, 3] of `size`: `lines` stand between what describes the image and the image."""
        labelling, pixels, (height, width) = self.labelling, self._open_image(), size
        least_px = self._banner[0] if self._banner[1] == width else 0  # or the image jumps as words change
        lines = [*describe_image(labelling, pixels, self.colours), *lines]
        banner = picture.draw_banner(lines, width, least_px)[:height]
        self._banner = banner.shape[:2]
        place = self.placement = Placement.fit(labelling.size, size, len(banner))
        key = (labelling.image, place.shown, below_box)
        if self._scaled is None or self._scaled[0] != key:
            show = picture.show_below_box if below_box else picture.scale_image
            self._scaled = (key, show(pixels, place.shown))
        drawn = picture.compose(size, banner, place, self._scaled[1])
        picture.draw_shapes(drawn, place, labelling.proposals, self.colours, proposed=True, pointed=pointed)
        picture.draw_shapes(drawn, place, labelling.shapes, self.colours, pointed=pointed)
        picture.draw_boxes(drawn, place, labelling.boxes or (), self.colours, pointed)
        return drawn

    def draw_box(self) -> None:
        """Let the user draw a box with cv2.selectROI, and add it."""
        drawn = self._draw(_window_size(), explain_drawing(self.labelling), below_box=True)
        with ended_by_signals(self.leave):
            rectangle = cv2.selectROI(TITLE, drawn, showCrosshair=False, fromCenter=False, printNotice=False)
        cv2.setMouseCallback(TITLE, self._see_mouse)  # selectROI leaves one that does nothing
        self.mouse, self.clicked, self._shown = None, None, ()
        assert self.placement is not None, "a picture was drawn"
        x, y, width, height = rectangle
        if edges := self.placement.to_own(x, y, width, height):
            self.labelling.add(edges)

    def confirm(self) -> None:
        """Call the image done and move on."""
        self._say_unless(self.labelling.confirm(), "done; this is the last image, q quits")

    def go(self, step: int) -> None:
        """Move on or back without calling the image done."""
        end = "last" if step > 0 else "first"
        self._say_unless(self.labelling.go(step), f"this is the {end} image")

    def _say_unless(self, done: bool, notice: str) -> None:
        if not done:
            self.notice = notice

    def _see_mouse(self, event: int, x: int, y: int, _flags: int, _data: object) -> None:
        self.mouse = (x, y)
        if event == cv2.EVENT_LBUTTONDOWN:
            self.clicked = self.mouse

    def _point(self) -> tuple[float, float] | None:
        """Where the mouse is, in own pixels."""
        known = self.mouse is not None and self.placement is not None
        return self.placement.point_to_own(*self.mouse) if known else None  # type: ignore[union-attr,misc]


def _window_size() -> tuple[int, int]:
    """Height and width that there are for the picture."""
    _, _, width, height = cv2.getWindowImageRect(TITLE)
    return max(1, height), max(1, width)


def _is_open() -> bool:
    try:
        return cv2.getWindowProperty(TITLE, cv2.WND_PROP_VISIBLE) >= 1
    except cv2.error:  # the last window is closed, and with it OpenCV's window library
        return False
