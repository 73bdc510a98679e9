"""Fixtures that several folders of tests share, and how files of tests are spread over processes."""

import os
import secrets
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import settings
from numpy.typing import NDArray
from xdist.scheduler import LoadScopeScheduling

from cluster.session import ENVIRONMENT, Session
from seg.process import set_up_process
from seg.screen import show_log
from tests.s3 import S3, serve_s3

settings.register_profile("fringe", deadline=None, derandomize=True)  # nothing timed, nothing random
settings.load_profile("fringe")

# ignored in what a script starts with `&` and in pytest-xdist's workers, and then in all that tests start
signal.signal(signal.SIGINT, signal.default_int_handler)


# Ray reads these once a process, and some modules load it when they are imported; no token of the user's
os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
set_up_process()

TESTS = Path(__file__).parent
SHARE_RAY = (
    *(
        "cluster/test_train.py",
        "cluster/test_search.py",
        "cluster/test_dataset.py",
        "cluster/test_engines.py",
    ),
    *("cluster/test_packing.py", "cluster/test_plan.py"),
    "cluster/test_score.py",  # the last: jobs that it runs in its own process end Ray
)
"""Their tests that are marked `ray` are one process's, with one Ray, which takes 8 s to start."""
LONG_FILES = (
    *("cluster/test_job_submit.py", "faults/test_training_faults.py", "cluster/test_tracking.py"),
    *("jobs/test_label.py", "seg/train/test_training.py", "jobs/test_bad_input.py"),
    *("faults/test_scoring_faults.py", "seg/models/test_overfit.py"),
    *("jobs/test_predict.py", "seg/models/test_models.py", "test_real_images.py"),
)
"""Half a minute and more: they begin first, so that none is left alone at the end."""


def file_of(nodeid: str) -> str:
    """A test's file, as in the tuples above."""
    return nodeid.partition("::")[0].removeprefix("tests/")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share a Ray come first, then the long files."""
    order = {file: place for place, file in enumerate(SHARE_RAY + LONG_FILES)}
    items.sort(key=lambda item: (not shares_ray(item), order.get(file_of(item.nodeid), len(order))))
    for item in filter(shares_ray, items):
        item.add_marker(pytest.mark.xdist_group("ray"))


def shares_ray(item: pytest.Item) -> bool:
    """Whether a test's Ray is that of others as well."""
    return file_of(item.nodeid) in SHARE_RAY and item.get_closest_marker("ray") is not None


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling | None:
    """Who runs what, where tests are spread over processes by group."""
    return FileScheduling(config, log) if config.getvalue("dist") == "loadgroup" else None


class FileScheduling(LoadScopeScheduling):
    """A file is one process's, and all tests that share a Ray are the same one's."""

    def _split_scope(self, nodeid: str) -> str:
        return "ray" if nodeid.endswith("@ray") else file_of(nodeid)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """End Ray after the last test that shares it: its processes are never quite idle."""
    ray = sys.modules.get("ray")
    if ray and (nextitem is None or not (item.path == nextitem.path or shares_ray(nextitem))):
        ray.shutdown()


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    """A session whose own Ray runs and does not end between tests, nor between files."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        session = Session(len(os.sched_getaffinity(0)), 0, 0, connected=ray.is_initialized())
        session.start()
        yield session


@pytest.fixture
def idle() -> Session:
    """A session without Ray: work that needs none leaves it so."""
    return Session(len(os.sched_getaffinity(0)), 0, 0, connected=False)


SHARED = Path(__file__).parents[1] / "../shared/data"

WriteArchive = Callable[..., Path]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Packs of a test stay in its own folder."""
    monkeypatch.setenv("FRINGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(autouse=True, scope="module")
def own_signals_of_a_file() -> Iterator[None]:
    """Nor does one that a fixture of a whole file runs, to the next file."""
    yield from _keep_signals()


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """A job that a test runs in this process leaves no handlers to the next test."""
    yield from _keep_signals()


def _keep_signals() -> Iterator[None]:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def own_log() -> None:
    """What the library logs in this process is a line on its screen, as in a job."""
    show_log()


@pytest.fixture
def shared_data() -> Path:
    """The folder of real images; without it the test is skipped, visibly."""
    if not SHARED.is_dir():
        pytest.skip(f"real images are not there: {SHARED}")
    return SHARED.resolve()


@pytest.fixture
def write_archive(tmp_path: Path) -> WriteArchive:
    """Writes `write_discs`, in a folder of the test's own."""

    def write(name: str = "archive", **shape: Any) -> Path:
        return write_discs(tmp_path / name, **shape)

    return write


def write_discs(root: Path, *, sequences: int = 2, frames: int = 3, size: tuple[int, int] = (64, 96)) -> Path:
    """A small archive in the plain layout: bright discs (class 1) on a dim noisy ground."""
    for sequence in range(sequences):
        for frame in range(frames):
            image, mask = draw_disc(size, np.random.default_rng([sequence, frame]))
            for folder, pixels in (("images", image), ("masks", mask)):
                path = root / folder / f"s{sequence}" / f"{frame}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), pixels)
    (root / "classes.txt").write_text("background\ndisc\n")
    return root


def draw_disc(
    size: tuple[int, int], random: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """One image, uint8 [H, W], and its mask: a disc somewhere, one row of truth ignored."""
    rows, columns = np.ogrid[: size[0], : size[1]]
    centre = random.uniform(0.3, 0.7, 2) * size
    mask = (np.hypot(rows - centre[0], columns - centre[1]) < 0.25 * min(size)).astype(np.uint8)
    image = np.where(mask == 1, 170, 80) + random.normal(0, 8, size)
    mask[3] = 255
    return image.clip(0, 255).astype(np.uint8), mask


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    """An S3 server with an empty bucket, for the tests of a file."""
    with serve_s3() as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium; without one the test is skipped, visibly."""
    from playwright.sync_api import sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip("no Chromium here: no page is opened in a browser (apt-get install chromium)")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found)
        yield opened
        opened.close()
