"""The state of labelling, without a window: where the user is, each image's boxes, what undo takes back."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from seg.data.images import Pixels
from seg.data.labels import Box
from seg.errors import ImageError, RequestError
from seg.label.files import Boxes, LabelFiles, make_box

Propose = Callable[[str, Pixels], Boxes]
"""Boxes for the image of a name, as read; ImageError: the model cannot be used on it."""


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one image's boxes: what they were before it, and whether it accepted proposals."""

    image: str
    before: Boxes | None
    accepted: bool


class Labelling:
    """Boxes of a list of images, each change saved before it shows.

    An image is labelled once it has a box, or once `confirm` said that it has none. Its boxes are None where
    it is not labelled, () where all of it is background.
    """

    def __init__(self, images: Sequence[str], files: LabelFiles) -> None:
        """Begin at the first image without a label, or at the first of all where every one has one."""
        self.images, self.files = images, files
        self.labelled = files.find_labelled(images)
        self.place = next((k for k, image in enumerate(images) if image not in self.labelled), 0)
        self.kind = 1
        """Class of the next box."""
        self.boxes: Boxes | None = None
        self.unreadable: dict[str, str] = {}
        """Images that were set aside, each with the reason."""
        self._sizes: dict[str, tuple[int, int]] = {}
        self._changes: list[Change] = []
        self._proposals: dict[str, Boxes] = {}
        self._accepted: set[str] = set()
        self._heading = 1

    @property
    def image(self) -> str:
        """The image that the user sees, or is to see next."""
        return self.images[self.place]

    @property
    def size(self) -> tuple[int, int]:
        """Its own size, (H, W)."""
        return self._sizes[self.image]

    def open(self, size: tuple[int, int]) -> None:
        """Load the boxes of the current image, which is of `size` (H, W).

        LabelMismatch: its label file is damaged; nothing will write over it once it is set aside.
        """
        self.boxes = self.files.read(self.image, size)
        self._sizes[self.image] = size

    def go(self, step: int) -> bool:
        """Move one image on (1) or back (-1), past those set aside; False: there is none, nothing moved."""
        self._heading = step
        for place in range(self.place + step, len(self.images) if step > 0 else -1, step):
            if self.images[place] not in self.unreadable:
                self.place = place
                return True
        return False

    def set_aside(self, reason: str) -> None:
        """Leave an image out that cannot be shown, and move on as before, at the end back.

        RequestError: no image is left.
        """
        self.unreadable[self.image] = reason
        heading = self._heading
        if not (self.go(heading) or self.go(-heading)):
            raise RequestError(f"none of the {len(self.images)} images can be labelled; the last: {reason}")

    def confirm(self) -> bool:
        """Call the image done, all background if it has no box, and move on; False: it was the last."""
        if self.boxes is None:
            self._change(())
        return self.go(1)

    def add(self, edges: tuple[float, float, float, float]) -> None:
        """Add a box of the chosen class: left, top, right, bottom in own pixels."""
        self._change((*(self.boxes or ()), make_box(self.kind, *edges)))

    def delete(self, point: tuple[float, float] | None = None) -> bool:
        """Remove the box at a point (x, y), or else the last; False: there is none.

        Without a box left the image is unlabelled until it is confirmed.
        """
        if not self.boxes:
            return False
        doomed = self.find_box(point) or self.boxes[-1]
        place = next(k for k, box in enumerate(self.boxes) if box is doomed)
        self._change((*self.boxes[:place], *self.boxes[place + 1 :]) or None)
        return True

    def find_box(self, point: tuple[float, float] | None) -> Box | None:
        """The smallest box around a point (x, y) in own pixels, the later of two as small."""
        if point is None:
            return None
        x, y = point
        around = [box for box in self.boxes or () if box.left <= x < box.right and box.top <= y < box.bottom]
        return min(reversed(around), key=_area, default=None)

    def choose_class(self, kind: int) -> None:
        """Give the next boxes class `kind`, if there is such a class."""
        if 0 < kind < len(self.files.classes):
            self.kind = kind

    @property
    def wants_proposals(self) -> bool:
        """Whether a model should look at the image: it has no label, and none has yet."""
        return self.boxes is None and self.image not in self._proposals

    @property
    def proposals(self) -> Boxes:
        """Boxes that a model proposes for the image and that are not accepted; they are in no file."""
        return () if self.image in self._accepted else self._proposals.get(self.image, ())

    def propose(self, image: str, boxes: Boxes) -> None:
        """Keep what a model proposes for an image."""
        self._proposals[image] = boxes

    def accept(self) -> bool:
        """Make the image's proposals its boxes, after those it has; False: there are none."""
        if not self.proposals:
            return False
        self._change((*(self.boxes or ()), *self.proposals), accepted=True)
        return True

    def undo(self) -> bool:
        """Take the last change back, whichever image it was in, and go there; False: there is none."""
        if not self._changes:
            return False
        change = self._changes[-1]
        self._save(change.image, change.before)
        self._changes.pop()
        if change.accepted:
            self._accepted.discard(change.image)
        self.place = self.images.index(change.image)
        self.boxes = change.before
        return True

    def _change(self, boxes: Boxes | None, *, accepted: bool = False) -> None:
        self._save(self.image, boxes)
        self._changes.append(Change(self.image, self.boxes, accepted))
        if accepted:
            self._accepted.add(self.image)
        self.boxes = boxes

    def _save(self, image: str, boxes: Boxes | None) -> None:
        self.files.write(image, boxes, self._sizes[image])
        (self.labelled.discard if boxes is None else self.labelled.add)(image)


def _area(box: Box) -> float:
    return (box.right - box.left) * (box.bottom - box.top)


class Predicting:
    """Asks for proposals, one image at a time, and hands them to the labelling when they are there."""

    def __init__(self, labelling: Labelling, propose: Propose) -> None:
        self.labelling, self.propose = labelling, propose
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="proposals")
        self._running: tuple[str, Future[Boxes]] | None = None

    def look(self, pixels: Pixels) -> str:
        """Take what is finished, begin with the current image if it wants proposals; what to say of it."""
        notice = self._take_finished()
        if self._running is None and self.labelling.wants_proposals:
            image = self.labelling.image
            self._running = (image, self._thread.submit(self.propose, image, pixels))
        return notice

    def close(self) -> None:
        """Begin nothing more, and wait for a prediction that runs."""
        self._thread.shutdown(cancel_futures=True)

    def _take_finished(self) -> str:
        if self._running is None or not self._running[1].done():
            return ""
        image, finished = self._running
        self._running = None
        try:
            self.labelling.propose(image, finished.result())
        except ImageError as error:
            self.labelling.propose(image, ())
            return f"{image}: no proposals: {error}"
        return ""
