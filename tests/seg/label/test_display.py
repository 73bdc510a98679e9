import os
import signal
import threading

import pytest

from seg.errors import RequestError
from seg.label.window import ended_by_signals, noted_interrupts, require_display

MEND = "label on a machine with a desktop, or through ssh -X"


@pytest.mark.parametrize("name", [None, ""])
def test_without_a_display_the_request_is_refused(monkeypatch: pytest.MonkeyPatch, name: str | None) -> None:
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")  # OpenCV cannot use it
    monkeypatch.delenv("DISPLAY", raising=False)
    if name is not None:
        monkeypatch.setenv("DISPLAY", name)
    with pytest.raises(RequestError, match=f"^no display: DISPLAY is not set; {MEND}$"):
        require_display()


def test_a_display_that_does_not_answer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", ":5999")
    with pytest.raises(RequestError) as error:
        require_display()
    assert str(error.value).startswith("no display: DISPLAY is :5999 (")
    assert str(error.value).endswith(f"); {MEND}")


def test_ctrl_c_is_noted_and_raises_nothing_in_the_block_alone() -> None:
    before = signal.getsignal(signal.SIGINT)
    with noted_interrupts() as interrupted:
        assert not interrupted.is_set()
        signal.raise_signal(signal.SIGINT)
        assert interrupted.is_set()
    assert signal.getsignal(signal.SIGINT) is before


@pytest.fixture
def signals() -> object:
    """SIGUSR1 has a handler of Python's, as Ctrl-C has, and loses it afterwards."""
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    yield
    signal.signal(signal.SIGUSR1, before)


def test_a_signal_in_the_block_is_heard_while_python_waits_in_another_library(signals: object) -> None:
    left = threading.Event()
    with ended_by_signals(left.set):
        os.kill(os.getpid(), signal.SIGUSR1)
        assert left.wait(20)


def test_a_block_without_a_signal_ends_quietly(signals: object) -> None:
    left = threading.Event()
    before = threading.active_count()
    with ended_by_signals(left.set):
        pass
    assert threading.active_count() == before
    os.kill(os.getpid(), signal.SIGUSR1)  # after it: no longer ours
    assert not left.is_set()
    assert signal.set_wakeup_fd(-1) == -1
