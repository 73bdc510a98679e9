import signal
import sys
import threading
from collections.abc import Callable

import pytest

from seg.errors import RequestError, StoppedBy
from seg.progress import watch_here, watch_thread
from tests.seg.test_live_view import Counted


class Interrupting(Counted):
    """Work whose second look meets Ctrl-C."""

    def look(self) -> None:
        super().look()
        if self.done == 2:
            raise KeyboardInterrupt


def fail(error: BaseException) -> Callable[..., None]:
    def work(*_: object) -> None:
        raise error

    return work


@pytest.mark.parametrize("watch", [watch_thread, watch_here])
@pytest.mark.parametrize("error", [ValueError("no"), RequestError("mend it"), SystemExit(3)])
def test_work_that_fails_is_not_finished(watch: Callable[..., StoppedBy], error: BaseException) -> None:
    with pytest.raises(type(error), match=str(error)):
        watch(Counted(), fail(error))


def test_a_ctrl_c_that_only_the_thread_met_is_not_the_users() -> None:
    with pytest.raises(KeyboardInterrupt):
        watch_thread(Counted(), fail(KeyboardInterrupt()))


@pytest.mark.parametrize("watch", [watch_thread, watch_here])
def test_work_that_ends_well_is_finished_and_shown_to_its_end(watch: Callable[..., StoppedBy]) -> None:
    counted = Counted()
    assert watch(counted, lambda *_: None) is StoppedBy.FINISHED
    assert counted.done >= 2  # at the beginning and at the end


def test_ctrl_c_ends_the_watching_of_work_that_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seg.progress.LOOK_EVERY_S", 0)
    over = threading.Event()
    assert watch_thread(Interrupting(), over.wait) is StoppedBy.INTERRUPT
    over.set()


def test_ctrl_c_ends_work_in_this_thread_where_it_is() -> None:
    assert watch_here(Counted(), fail(KeyboardInterrupt())) is StoppedBy.INTERRUPT


@pytest.mark.parametrize("watch", [watch_thread, watch_here])
def test_a_ctrl_c_that_python_loses_in_a_finaliser_ends_the_work_at_its_next_step(
    watch: Callable[..., StoppedBy], monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda one: lost.append(one.exc_type))
    monkeypatch.setattr("seg.progress.LOOK_EVERY_S", 0)
    over, before = threading.Event(), signal.getsignal(signal.SIGINT)

    class Dropped:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    class Dropping(Counted):
        def look(self) -> None:
            super().look()
            if self.done == 2:
                Dropped()

    def work(show: Callable[[], object] = lambda: over.wait(0.1)) -> None:
        for _ in range(100):
            show()

    assert watch(Dropping(), work) is StoppedBy.INTERRUPT
    over.set()
    assert lost == [KeyboardInterrupt]
    assert signal.getsignal(signal.SIGINT) is before
