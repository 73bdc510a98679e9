import pytest

from cluster.score import choose_workplace
from cluster.session import Session
from seg.requests import ScoreRequest
from seg.score.limits import Limits
from seg.storage import as_place


@pytest.mark.parametrize(
    ("options", "limits"),
    [
        ({"workers": 1}, Limits(600, 600)),
        ({"workers": 1, "stall_minutes": 60.0}, Limits(3600, 3600)),
        ({"workers": 1, "image_timeout_s": 5.0}, Limits(5, 600)),
        ({"workers": 1, "image_timeout_s": 0.0}, Limits(None, 600)),
        ({"workers": 0}, Limits(600, None)),
        ({"workers": 0, "image_timeout_s": 0.0}, Limits(None, None)),
    ],
)
def test_an_image_may_take_as_long_as_nothing_may_move_unless_something_else_is_asked_for(
    options: dict[str, float], limits: Limits, idle: Session
) -> None:
    request = ScoreRequest(archive=as_place("a"), models=("m",), out=as_place("o"), **options)  # type: ignore[arg-type]
    assert choose_workplace(request, idle, images=1000).limits == limits
