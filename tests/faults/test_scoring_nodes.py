"""A scoring on two machines, of which one goes; a file of its own, as a process has one Ray at a time."""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster.score import score
from cluster.session import Session
from tests.conftest import WriteArchive
from tests.faults.scoring_jobs import ask, check_alike, check_whole
from tests.small import archive_labels, wait_until, write_model


@pytest.mark.ray
@pytest.mark.long
def test_a_node_that_is_removed_leaves_its_images_to_the_others(
    write_archive: WriteArchive, tmp_path: Path, idle: Session
) -> None:
    import ray
    from ray.cluster_utils import Cluster

    model = write_model(tmp_path / "model.safetensors")
    archive = write_archive(sequences=3, frames=300, size=(64, 64))
    score(ask(archive, model, tmp_path / "whole"), idle)
    request = ask(archive, model, tmp_path / "out", workers=2)
    masks = lambda: len(list((tmp_path / "out").rglob("masks/*/*.png")))  # noqa: E731
    head = {"num_cpus": 1, "include_dashboard": False}  # whose usual port another Ray here may have
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        node = cluster.add_node(num_cpus=1)  # from the main thread alone
        ray.init(address=cluster.address, log_to_driver=False)
        with ThreadPoolExecutor(1) as pool:
            ended = pool.submit(score, request, Session(2, 0, 0, connected=True))
            wait_until(lambda: masks() >= 100 or ended.done(), "images", within_s=120)
            cluster.remove_node(node)
            assert not ended.done()
            summary = ended.result()
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert summary.exit_code == 0
    assert check_whole(tmp_path / "out", archive_labels(archive))
    check_alike(tmp_path / "out", tmp_path / "whole")


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.parametrize("dies", [False, True])
def test_a_node_without_a_gpu_reads_for_one_that_has_and_may_go(
    write_archive: WriteArchive,
    tmp_path: Path,
    idle: Session,
    dies: bool,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The GPU is one by name alone: what predicts on it is told to use the CPU."""
    import ray
    from ray.cluster_utils import Cluster

    monkeypatch.setattr("cluster.score.device_of", lambda placed: "cpu")
    model = write_model(tmp_path / "model.safetensors")
    archive = write_archive(sequences=3, frames=150, size=(64, 64))
    score(ask(archive, model, tmp_path / "whole"), idle)
    request = ask(archive, model, tmp_path / "out", workers=1)
    masks = lambda: len(list((tmp_path / "out").rglob("masks/*/*.png")))  # noqa: E731
    head_cpus = 2 if dies else 0  # with two others than the GPU's own process read there too
    head = {"num_cpus": head_cpus, "num_gpus": 1, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        node = cluster.add_node(num_cpus=4)
        ray.init(address=cluster.address, log_to_driver=False)
        with ThreadPoolExecutor(1) as pool:
            ended = pool.submit(score, request, Session(head_cpus + 4, 1, 1, connected=True))
            if dies:
                wait_until(lambda: masks() >= 100 or ended.done(), "images", within_s=120)
                cluster.remove_node(node)
                assert not ended.done()
            summary = ended.result()
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert summary.exit_code == 0
    assert check_whole(tmp_path / "out", archive_labels(archive))
    check_alike(tmp_path / "out", tmp_path / "whole")
    said = capfd.readouterr().err
    assert f"{4 if dies else 2} that read, 1 that predict, 1 that finish" in said
    counts = dict(re.findall(r"(\w+ \d+) on (\w{8})", said.partition("images by stage and node: ")[2]))
    assert len(set(counts.values())) == 2
    (gpu_node,) = {where for what, where in counts.items() if what.startswith("model")}
    read = {where: int(what.split()[1]) for what, where in counts.items() if what.startswith("read")}
    if not dies:
        assert sum(number for where, number in read.items() if where != gpu_node) == 450
