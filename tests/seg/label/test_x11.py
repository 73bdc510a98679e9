import pytest

from seg.label.window import announce_window


@pytest.mark.parametrize("display", [None, "", "far.away:10.0", ":5999"])
def test_without_a_local_screen_nothing_is_done(monkeypatch: pytest.MonkeyPatch, display: str | None) -> None:
    """That it wakes windows is tested where there are some, with jobs/label.py."""
    monkeypatch.delenv("DISPLAY", raising=False)
    if display is not None:
        monkeypatch.setenv("DISPLAY", display)
    announce_window("no window")
