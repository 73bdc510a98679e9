"""A scoring on two machines, of which one goes; a file of its own, as a process has one Ray at a time."""

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
