"""A model's proposals for the image that is open, from a thread, while the window goes on."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from seg.data.images import Pixels
from seg.errors import ImageError
from seg.labelling.label_files import Boxes
from seg.labelling.labelling import Labelling

Propose = Callable[[str, Pixels], Boxes]
"""Boxes for the image of a name, as read; ImageError: the model cannot be used on it."""


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
