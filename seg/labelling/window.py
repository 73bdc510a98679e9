"""The window of labelling: it shows the state, and turns keys and the mouse into changes of it."""

from collections.abc import Callable

import cv2

from seg.data.images import Pixels
from seg.data.labels import Box
from seg.errors import ImageError
from seg.labelling.display import ended_by_signals, noted_interrupts
from seg.labelling.labelling import Labelling
from seg.labelling.picture import (
    Picture,
    Placement,
    box_colours,
    compose,
    draw_banner,
    draw_boxes,
    scale_image,
)
from seg.labelling.predicting import Predicting, Propose
from seg.labelling.words import Lines, describe_image, explain_drawing, list_keys
from seg.labelling.x11 import announce_window
from seg.screen import say

TITLE = "Fringe labels"
TICK_MS = 30
"""How often the window looks for a finished prediction, a new size, Ctrl-C."""
ANNOUNCED = range(10, 101, 10)
"""Turns after which the window is announced again: when the rush of its beginning is over, to be sure."""


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
        self.colours = box_colours(labelling.files.classes)
        self.notice = ""
        self.mouse: tuple[int, int] | None = None
        self.placement: Placement | None = None
        self._banner: tuple[int, ...] = (0, 0)
        self._opened: tuple[str, Pixels] | None = None
        self._scaled: tuple[tuple[str, tuple[int, int]], Picture] | None = None
        self._shown: tuple[object, ...] = ()
        self.commands: dict[str, Callable[[], object]] = {
            " ": self.draw_box,
            "b": self.draw_box,
            "n": self.confirm,
            "s": lambda: self.go(1),
            "p": lambda: self.go(-1),
            "u": lambda: self._say_unless(labelling.undo(), "nothing to undo"),
            "d": lambda: self._say_unless(labelling.delete(self._point()), "no box to delete"),
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
        labelling, pointed, size = self.labelling, self.labelling.find_box(self._point()), _window_size()
        waiting = self.predicting is not None and labelling.wants_proposals
        notice = " ".join(words for words in ("predicting ..." if waiting else "", self.notice) if words)
        state = (labelling.image, labelling.boxes, labelling.proposals, labelling.kind, pointed, notice, size)
        if self._shown != state:
            self._shown = state
            cv2.imshow(TITLE, self._draw(size, list_keys(labelling, notice), pointed))

    def _draw(self, size: tuple[int, int], lines: Lines, pointed: Box | None = None) -> Picture:
        """The picture, [H, W, 3] of `size`: `lines` stand between what describes the image and the image."""
        labelling, pixels, (height, width) = self.labelling, self._open_image(), size
        least_px = self._banner[0] if self._banner[1] == width else 0  # or the image jumps as words change
        lines = [*describe_image(labelling, pixels, self.colours), *lines]
        banner = draw_banner(lines, width, least_px)[:height]
        self._banner = banner.shape[:2]
        place = self.placement = Placement.fit(labelling.size, size, len(banner))
        key = (labelling.image, place.shown)
        if self._scaled is None or self._scaled[0] != key:
            self._scaled = (key, scale_image(pixels, place.shown))
        picture = compose(size, banner, place, self._scaled[1])
        draw_boxes(picture, place, labelling.proposals, self.colours, proposed=True)
        draw_boxes(picture, place, labelling.boxes or (), self.colours, pointed=pointed)
        return picture

    def draw_box(self) -> None:
        """Let the user draw a box with cv2.selectROI, and add it."""
        picture = self._draw(_window_size(), explain_drawing(self.labelling))
        with ended_by_signals(self.leave):
            rectangle = cv2.selectROI(
                TITLE, picture, showCrosshair=False, fromCenter=False, printNotice=False
            )
        cv2.setMouseCallback(TITLE, self._see_mouse)  # selectROI leaves one that does nothing
        self.mouse, self._shown = None, ()
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

    def _see_mouse(self, _event: int, x: int, y: int, _flags: int, _data: object) -> None:
        self.mouse = (x, y)

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
