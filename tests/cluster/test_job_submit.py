"""The card's command, `ray job submit -- python jobs/train.py`, against a head that demands a token."""

import json
import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

from seg.model_file import load_model
from tests.small import wait_until

pytestmark = pytest.mark.ray

PROJECT = Path(__file__).parents[2]
SIDE_PX = 768  # interferogram-small trains on crops of 256 px at a third of the size
IN_NAMESPACE = ["--user", "--net", "--preserve-credentials"]


@dataclass(frozen=True, slots=True)
class Head:
    """A Ray head that listens for jobs; commands run beside it, in its network."""

    folder: Path
    address: str
    token: Path
    environment: dict[str, str]
    prefix: list[str]

    def submit(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run `ray job submit -- command` as a user of this head would, with other variables if given."""
        return subprocess.run(
            [*self.prefix, ray(), "job", "submit", "--address", self.address, "--", *command],
            env=self.environment | variables,
            cwd=self.folder.parent,  # not the head's folder: the job must not depend on the submitter's
            capture_output=True,
            text=True,
            timeout=300,  # 80 to 155 s measured on 2 shared cores
            check=False,
        )


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Head]:
    """A head started as docs/how-to/cluster.md says, in a project folder of its own; it leaves nothing."""
    root = tmp_path_factory.mktemp("submit")
    folder = root / "project"
    folder.mkdir()
    (folder / "jobs").symlink_to(PROJECT / "jobs")
    write_archive(root / "archive")
    short = Path(tempfile.mkdtemp(prefix="fringe-"))  # Ray's socket names must stay under 108 characters
    token = make_token(root)
    network = private_network()
    if network is None:
        say(request, "no private network here: this Ray listens on all interfaces, behind its token")
    prefix = [] if network is None else ["nsenter", "--target", str(network.pid), *IN_NAMESPACE]
    environment = head_environment(root, token, short)
    port = free_port()
    command = (
        f"start --head --block --port={free_port()} --node-ip-address=127.0.0.1 --dashboard-host=127.0.0.1"
        f" --dashboard-port={port} --include-dashboard=true --num-cpus=2 --disable-usage-stats"
        f" --temp-dir={short}"
    ).split()
    log = root / "head.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*prefix, ray(), *command],
            env=environment,
            cwd=folder,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_until(
            lambda: "Ray runtime started" in log.read_text() or process.poll() is not None,
            "head",
            within_s=120,
        )
        assert process.poll() is None, log.read_text()
        yield Head(folder, f"http://127.0.0.1:{port}", token, environment, prefix)
    finally:
        stop(process, short)
        if network is not None:
            network.communicate()  # its cat reads to the end of its input
        shutil.rmtree(short)


def ray() -> str:
    """The `ray` command of this environment."""
    return str(Path(sys.executable).with_name("ray"))


def write_archive(root: Path) -> None:
    """Two sequences of one frame, to train and to validate, in the plain layout: bright squares on noise."""
    seeded = np.random.default_rng(0)
    for sequence in ("a", "b"):
        image = seeded.integers(0, 80, (SIDE_PX, SIDE_PX), dtype=np.uint8)
        mask = np.zeros_like(image)
        for top, left in seeded.integers(0, SIDE_PX - 150, (4, 2)):
            mask[top : top + 150, left : left + 150] = 1
        image[mask == 1] += 120
        for kind, pixels in (("images", image), ("masks", mask)):
            file = root / kind / sequence / "0.png"
            file.parent.mkdir(parents=True)
            assert cv2.imwrite(str(file), pixels)
    (root / "classes.txt").write_text("background\ncell\n")


def make_token(root: Path) -> Path:
    """A token that only its owner reads, made as the docs say: under umask 077."""
    command = f"umask 077; printf %s {secrets.token_hex(32)} > {root}/token"
    subprocess.run(["sh", "-c", command], check=True)
    return root / "token"


def head_environment(root: Path, token: Path, short: Path) -> dict[str, str]:
    """What a shell that starts a head exports; jobs inherit it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "FRINGE_"))}
    return kept | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(root / "home"),  # an operator's own ~/.ray/auth_token plays no part
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_TMPDIR": str(short),
        "FRINGE_DATA": str(root / "archive"),
        "FRINGE_CACHE": str(root / "cache"),
        "FRINGE_WORKERS": "1",
        "TORCH_HOME": os.environ.get("TORCH_HOME", str(Path.home() / ".cache" / "torch")),
    }


def private_network() -> subprocess.Popen[bytes] | None:
    """A process that holds a network of loopback alone, as Ray listens on every interface; None: refused."""
    if shutil.which("unshare") is None or shutil.which("nsenter") is None:
        return None
    command = "ip link set lo up && echo up && exec cat"
    holder = subprocess.Popen(
        ["unshare", "--user", "--map-root-user", "--net", "sh", "-c", command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert holder.stdout is not None
    if holder.stdout.readline() == b"up\n":
        return holder
    holder.communicate()
    return None


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def stop(head: subprocess.Popen[bytes], marker: Path) -> None:
    """End the head and what it started, known by its RAY_TMPDIR, which nothing else has."""
    head.kill()  # first, or it reports the others' deaths; and SIGTERM would take it over 20 s
    head.wait()
    wait_until(lambda: not killed_under(marker), "Ray's processes to end", within_s=20)


def killed_under(marker: Path) -> list[int]:
    """Kill what lives under the marker; those killed just now, who may have started others meanwhile."""
    pids = started_under(marker)
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return pids


def started_under(marker: Path) -> list[int]:
    """Living processes whose environment has RAY_TMPDIR=marker."""
    wanted, found = f"RAY_TMPDIR={marker}".encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except (FileNotFoundError, ProcessLookupError, PermissionError):  # gone, or another user's
            continue
    return found


def say(request: pytest.FixtureRequest, line: str) -> None:
    """Print past pytest's capture."""
    reporter = request.config.pluginmanager.get_plugin("terminalreporter")
    assert reporter is not None
    reporter.write_line(f"{request.node.nodeid}: {line}")


@pytest.mark.long
def test_the_bare_command_leaves_a_model_file_beside_the_heads_jobs(head: Head) -> None:
    """Nothing else is given, so all defaults are at work."""
    done = head.submit("python", "jobs/train.py")
    assert done.returncode == 0, done.stdout + done.stderr
    run = max((head.folder / "runs").iterdir(), key=lambda folder: folder.stat().st_ctime_ns)
    _, card = load_model(run / "best.safetensors")
    assert card.classes == ("background", "cell")
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["recipe"], summary["stopped_by"]) == ("interferogram-small", "finished")
    assert "connected to the running Ray cluster: 2 CPUs" in done.stdout
    assert "starting Ray on this machine" not in done.stdout


def test_a_wrong_request_fails_the_submission_in_one_sentence(head: Head) -> None:
    done = head.submit("python", "jobs/train.py", "no-such-recipe")
    assert done.returncode == 1  # Ray's own, for whatever the job returned
    assert "train: unknown recipe 'no-such-recipe'" in done.stdout
    assert "Traceback" not in done.stdout


def test_a_submission_without_the_token_is_refused(head: Head) -> None:
    done = head.submit("touch", "trespassed", RAY_AUTH_MODE="disabled", RAY_AUTH_TOKEN_PATH="")
    assert done.returncode != 0
    assert "Unauthorized" in done.stdout + done.stderr
    assert not (head.folder / "trespassed").exists()


def test_a_token_made_under_umask_077_is_its_owners_alone(head: Head) -> None:
    assert stat.S_IMODE(head.token.stat().st_mode) == 0o600


def test_a_head_in_token_mode_without_a_token_does_not_start(tmp_path: Path) -> None:
    environment = head_environment(tmp_path, tmp_path / "token", tmp_path)
    del environment["RAY_AUTH_TOKEN_PATH"]
    command = [ray(), "start", "--head", f"--port={free_port()}", "--disable-usage-stats"]
    started = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert started.returncode != 0
    assert "no authentication token was found" in " ".join((started.stdout + started.stderr).split())
    assert not started_under(tmp_path)
