"""The state of labelling, without a window: where the user is, each image's label, what undo takes back."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from seg.data.boxes import Box
from seg.data.images import Pixels
from seg.errors import ImageError, RequestError
from seg.label.files import Boxes, Contents, LabelFiles, Mask, make_box
from seg.label.shapes import Shape, Shapes, erase, fill_box, fill_ellipse, find_shape, find_shapes, paint
from seg.requests import BoxForm

Propose = Callable[[str, Pixels], Shapes]
"""Objects for the image of a name, as read; ImageError: the model cannot be used on it."""
Point = tuple[float, float]
"""x and y in own pixels."""


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one image's label: what its files held before it, and what was proposed."""

    image: str
    before: Contents
    proposed: Shapes


class Labelling:
    """Labels of a list of images, each change saved before it shows.

    An image is labelled by boxes or, from the first proposal accepted or ellipse drawn, by a mask, on which
    its boxes are objects too. It is labelled once it has one object, or once `confirm` said that it has none.
    """

    def __init__(self, images: Sequence[str], files: LabelFiles, form: BoxForm = "filled") -> None:
        """Begin at the first image without a label, or at the first of all where every one has one."""
        self.images, self.files = images, files
        self.labelled = files.find_labelled(images)
        self.place = next((k for k, image in enumerate(images) if image not in self.labelled), 0)
        self.kind = 1
        """Class of the next box."""
        self.form: BoxForm = form
        """What the next box means: all of it, or the ellipse in it."""
        self.label: Boxes | Mask | None = None
        self.shapes: Shapes = ()
        """The objects of a label that is a mask."""
        self.unreadable: dict[str, str] = {}
        """Images that were set aside, each with the reason."""
        self._sizes: dict[str, tuple[int, int]] = {}
        self._changes: list[Change] = []
        self._proposals: dict[str, Shapes] = {}
        self._heading = 1

    @property
    def image(self) -> str:
        """The image that the user sees, or is to see next."""
        return self.images[self.place]

    @property
    def size(self) -> tuple[int, int]:
        """Its own size, (H, W)."""
        return self._sizes[self.image]

    @property
    def boxes(self) -> Boxes | None:
        """The boxes that label the image; (): all of it is background; None: no label, or a mask."""
        return None if isinstance(self.label, np.ndarray) else self.label

    def open(self, size: tuple[int, int]) -> None:
        """Load the label of the current image, which is of `size` (H, W).

        LabelMismatch: its label file is damaged; nothing will write over it once it is set aside.
        """
        self._sizes[self.image] = size
        self._take(self.files.read(self.image, size))

    def _take(self, label: Boxes | Mask | None) -> None:
        is_mask = isinstance(label, np.ndarray)
        self.label, self.shapes = label, find_shapes(label, len(self.files.classes)) if is_mask else ()

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
        """Call the image done, all background if it has no object, and move on; False: it was the last."""
        if self.label is None:
            self._change(())
        return self.go(1)

    def add(self, edges: tuple[int, int, int, int]) -> None:
        """Add a box of the chosen class, or the ellipse in it: left, top, right, bottom in own pixels."""
        box = make_box(self.kind, *edges)
        if self.form == "filled" and not isinstance(self.label, np.ndarray):
            self._change((*(self.label or ()), box))
        else:
            self._paint(fill_box(box) if self.form == "filled" else fill_ellipse(box))

    def delete(self, point: Point | None = None) -> bool:
        """Remove the object of a mask at a point (x, y), or the box there, else the last box; False: none.

        Without an object left the image is unlabelled until it is confirmed.
        """
        if isinstance(self.label, np.ndarray):
            shape = find_shape(self.shapes, point)
            if shape is not None:
                erased = erase(self.label, shape)
                self._change(erased if erased.any() else None)
            return shape is not None
        if not self.label:
            return False
        doomed = self.find_box(point) or self.label[-1]
        place = next(k for k, box in enumerate(self.label) if box is doomed)
        self._change((*self.label[:place], *self.label[place + 1 :]) or None)
        return True

    def find_box(self, point: Point | None) -> Box | None:
        """The smallest box around a point (x, y) in own pixels, the later of two as small."""
        if point is None:
            return None
        x, y = point
        around = [box for box in self.boxes or () if box.left <= x < box.right and box.top <= y < box.bottom]
        return min(reversed(around), key=_area, default=None)

    def find_pointed(self, point: Point | None) -> Box | Shape | None:
        """What a key or a click at a point (x, y) would act on: an object of the label, else one proposed."""
        return self.find_box(point) or find_shape((*self.shapes, *self.proposals), point)

    def choose_class(self, kind: int) -> None:
        """Give the next boxes class `kind`, if there is such a class."""
        if 0 < kind < len(self.files.classes):
            self.kind = kind

    def change_form(self) -> None:
        """Let the next boxes mean what they did not."""
        self.form = "ellipse" if self.form == "filled" else "filled"

    @property
    def wants_proposals(self) -> bool:
        """Whether a model should look at the image: it has no label, and none has yet."""
        return self.label is None and self.image not in self._proposals

    @property
    def proposals(self) -> Shapes:
        """Objects that a model proposes for the image and that are not accepted; they are in no file."""
        return self._proposals.get(self.image, ())

    def propose(self, image: str, shapes: Shapes) -> None:
        """Keep what a model proposes for an image."""
        self._proposals[image] = shapes

    def accept(self, point: Point | None = None) -> bool:
        """Put all proposals, or the one at a point (x, y), on the image's mask; False: there is none."""
        chosen = find_shape(self.proposals, point)
        accepted = self.proposals if point is None else () if chosen is None else (chosen,)
        if accepted:
            left = tuple(shape for shape in self.proposals if shape not in accepted)
            self._paint(*accepted)
            self._proposals[self.image] = left
        return bool(accepted)

    def undo(self) -> bool:
        """Take the last change back, whichever image it was in, and go there; False: there is none."""
        if not self._changes:
            return False
        change = self._changes[-1]
        self.files.put(change.before)
        self._changes.pop()
        if change.proposed:
            self._proposals[change.image] = change.proposed
        self.place = self.images.index(change.image)
        self._take(self.files.read(self.image, self.size))
        self._note()
        return True

    def _paint(self, *shapes: Shape) -> None:
        self._change(paint(self.files.as_mask(self.image, self.label, self.size), shapes))

    def _change(self, label: Boxes | Mask | None) -> None:
        before = self.files.keep(self.image)
        self.files.write(self.image, label, self.size)
        self._changes.append(Change(self.image, before, self.proposals))
        self._take(label)
        self._note()

    def _note(self) -> None:
        (self.labelled.discard if self.label is None else self.labelled.add)(self.image)


def _area(box: Box) -> float:
    return (box.right - box.left) * (box.bottom - box.top)


class Predicting:
    """Asks for proposals, one image at a time, and hands them to the labelling when they are there."""

    def __init__(self, labelling: Labelling, propose: Propose) -> None:
        self.labelling, self.propose = labelling, propose
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="proposals")
        self._running: tuple[str, Future[Shapes]] | None = None

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
