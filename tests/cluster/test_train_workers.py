import pytest

from cluster.train_workers import unwrapping, worker_failure
from seg.errors import RequestError


class Wrapper(Exception):
    """What Ray Train raises: what each failed worker raised is inside."""

    def __init__(self, inner: BaseException) -> None:
        super().__init__("Training failed due to worker errors")
        self.worker_failures = {1: inner}


class WithTraceback(Exception):
    """As which Ray Train hands on what a worker raised."""

    def __init__(self, error: Exception) -> None:
        super().__init__(f"Traceback (most recent call last): {error}")
        self._base_exc = error


@pytest.mark.parametrize("inner", [ValueError("no"), RequestError("mend it")])
def test_what_a_worker_raised_comes_out_of_rays_wrapper(inner: Exception) -> None:
    with pytest.raises(type(inner), match=str(inner)), unwrapping():
        raise Wrapper(inner)


def test_a_request_comes_as_itself_and_the_rest_with_its_workers_traceback() -> None:
    with pytest.raises(RequestError, match=r"^mend it$"), unwrapping():
        raise Wrapper(WithTraceback(RequestError("mend it")))
    with pytest.raises(WithTraceback, match="Traceback") as raised, unwrapping():
        raise Wrapper(WithTraceback(ValueError("no")))
    assert isinstance(worker_failure(raised.value), ValueError)
    with pytest.raises(KeyError), unwrapping():
        raise KeyError
