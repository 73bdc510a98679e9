"""What OpenCV's windows leave to be asked of the X server itself, through the libX11 that they load."""

import ctypes
import os
from collections.abc import Iterator
from ctypes import POINTER, byref, c_char_p, c_int, c_long, c_uint, c_ulong, c_void_p

MAP_NOTIFY = 19
DEPTH = 3
"""Levels at which a window is looked for: the window manager's frame, and a frame in that."""


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
