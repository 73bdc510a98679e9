import os
import re
import socket
import stat
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import cluster.session
from cluster.session import ENVIRONMENT, compute_session
from seg.errors import RequestError


@pytest.fixture(autouse=True)
def own_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No cluster of the user's, no token of the user's; the job's environment goes with the test."""
    for name in (*ENVIRONMENT, "RAY_ADDRESS", "FRINGE_WORKERS", "RAY_AUTH_MODE"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)


@pytest.fixture
def free_port() -> Iterator[int]:
    """A port that is taken, so that nobody else listens on it either, and answers nothing."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def cpus() -> int:
    return len(os.sched_getaffinity(0))


def test_local_is_this_machine_and_starts_nothing_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "local")
    with compute_session() as session:
        assert (session.cpus, session.connected) == (cpus(), False)


def test_gpus_that_the_driver_lists_and_torch_cannot_use_are_a_fault_in_its_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse() -> bool:
        warnings.warn(
            "CUDA initialization: The NVIDIA driver on your system is too old (found version 11040). Please "
            "update your GPU driver (Triggered internally at CUDAFunctions.cpp:119.)",
            stacklevel=1,
        )
        return False

    for counted, available, fault in (
        (2, refuse, "The NVIDIA driver on your system is too old (found version 11040)"),
        (2, lambda: False, "CUDA does not start"),
        (2, lambda: True, ""),
        (0, lambda: False, ""),
    ):
        monkeypatch.setattr(torch.cuda, "device_count", lambda counted=counted: counted)
        monkeypatch.setattr(torch.cuda, "is_available", available)
        monkeypatch.setattr(cluster.session, "has_gpu_driver", lambda: True)
        with compute_session(use_ray=False) as session:
            assert (session.gpus, session.fault) == (counted, fault)


def test_without_ray_no_address_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "nonsense:1")
    with compute_session(use_ray=False) as session:
        assert not session.connected


@pytest.mark.parametrize(("use_ray", "ends"), [(False, 0), (True, 1)])
def test_a_ray_that_was_not_asked_for_is_left_to_who_runs_it(
    use_ray: bool, ends: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "local")
    ended: list[bool] = []
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(shutdown=lambda: ended.append(True)))
    with compute_session(use_ray=use_ray):
        pass
    assert len(ended) == ends


def test_an_address_that_does_not_answer_is_refused(monkeypatch: pytest.MonkeyPatch, free_port: int) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port}")
    message = (
        f"RAY_ADDRESS is 127.0.0.1:{free_port} but nothing answers there; start the cluster, or unset it"
    )
    with pytest.raises(RequestError, match=f"^{re.escape(message)}$"), compute_session():
        pass


def test_a_cluster_that_was_here_and_is_gone_is_gone_on_without(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, free_port: int
) -> None:
    file = tmp_path / "ray" / "ray_current_cluster"
    file.parent.mkdir()
    file.write_text(f"127.0.0.1:{free_port}\n")
    with compute_session() as session:
        assert (session.cpus, session.connected) == (cpus(), False)
    assert capfd.readouterr().err == (
        f"no Ray at 127.0.0.1:{free_port}, where one was started last; going on without it\n"
    )


def test_a_machine_that_never_had_a_cluster_is_used_alone(capfd: pytest.CaptureFixture[str]) -> None:
    with compute_session() as session:
        assert not session.connected
    assert capfd.readouterr().err == ""


def test_the_mode_is_set_before_ray_is_loaded() -> None:
    """Ray reads it once: without this, the first job of a machine could not enter the Ray it starts."""
    with compute_session():
        assert os.environ["RAY_AUTH_MODE"] == "token"


def test_a_token_is_made_once_for_its_owner_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    token = tmp_path / "home" / ".ray" / "auth_token"
    monkeypatch.setattr(cluster.session, "_TOKEN", token)
    mask = os.umask(0)
    try:
        with compute_session():
            first = token.read_text()
    finally:
        os.umask(mask)
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert re.fullmatch(r"[0-9a-f]{64}", first)
    with compute_session():
        assert token.read_text() == first
    assert [path.name for path in token.parent.iterdir()] == ["auth_token"]


def test_a_token_that_another_job_made_meanwhile_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("theirs")
    monkeypatch.setattr(cluster.session, "_TOKEN", token)
    monkeypatch.setattr(cluster.session, "_token_exists", lambda: False)  # as it was a moment ago
    with compute_session():
        assert token.read_text() == "theirs"
    assert [path.name for path in token.parent.iterdir()] == ["auth_token"]
