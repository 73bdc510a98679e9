"""What a window needs of the machine: a screen that is there, and an end when a signal asks for it."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from seg.errors import RequestError


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
