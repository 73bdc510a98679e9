import json
from dataclasses import asdict
from pathlib import Path

import pytest
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError, WorkerHealthCheckTimeoutError

from cluster.train_workers import note_failures, unwrapping, worker_failure
from seg.errors import RequestError
from seg.train.board import Beat, failures_file
from seg.train.training import Position


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


FAR, NEAR = Position(2, 7, "computing"), Position(2, 7, "loading")
LATE = "worker 1 on node-1, loading in step 7 of epoch 2"
MUTE = "answers no more; "
GONE = WorkerHealthCheckFailedError("A worker health check failed.", RuntimeError("The actor died"))
HUNG = WorkerHealthCheckTimeoutError("hanging")


@pytest.mark.parametrize(
    ("causes", "written", "said"),
    [
        # as NCCL's watchdog leaves it: who waited is gone
        ({0: GONE}, 100.0, {0: f"{MUTE}behind the others: {LATE} (The actor died)"}),
        # who is gone was awaited itself
        ({1: GONE}, 100.0, {1: f"{MUTE}behind the others: {LATE} (The actor died)"}),
        # the others could say it themselves
        (
            {0: RuntimeError("worker 0 waited in vain"), 1: GONE},
            100.0,
            {0: "worker 0 waited in vain", 1: f"{MUTE}behind the others: {LATE} (The actor died)"},
        ),
        ({1: HUNG}, 40.0, {1: f"{MUTE}silent, so frozen, killed or cut off: {LATE} for 60 s (Set the "}),
        ({1: ValueError("no such file")}, 100.0, {1: "no such file"}),
    ],
)
def test_the_late_worker_is_named_though_the_rank_that_waited_is_gone(
    tmp_path: Path, causes: dict[int, Exception], written: float, said: dict[int, str]
) -> None:
    folder = tmp_path / "last" / "workers"
    folder.mkdir(parents=True)
    for rank, (where, when) in enumerate([(FAR, 100.0), (NEAR, written)]):
        beat = Beat(rank, 2, f"node-{rank}", when, where)
        (folder / f"{rank}.json").write_text(json.dumps(asdict(beat)))
    note_failures(tmp_path, causes)
    lines = failures_file(tmp_path).read_text().splitlines()
    assert len(lines) == len(said)
    for line, (rank, text) in zip(lines, said.items(), strict=True):
        assert line.split(" ", 1)[1].startswith(f"worker {rank}: {text}")
