"""Jobs as a user starts them, on Ray and one GPU: workers, shares of it, and what it holds afterwards."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import WriteArchive
from tests.small import TINY_WORDS, ledger_rows, start_job, sum_ledger, write_model

pytestmark = [pytest.mark.gpu, pytest.mark.ray, pytest.mark.usefixtures("gpu")]
SPARE_BYTES = 64 * 2**20
"""Other programs may come and go; a worker that stays holds several hundred MiB."""


def run(verb: str, *words: object, **variables: object) -> tuple[int, str]:
    job = start_job(verb, *words, RAY_ADDRESS="local", **variables)
    _, errors = job.communicate(timeout=500)
    return job.returncode, errors


def free_bytes() -> int:
    return torch.cuda.mem_get_info()[0]


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_worker_on_ray_trains_as_this_process_does(
    write_archive: WriteArchive, tmp_path: Path, precision: str
) -> None:
    words = (*TINY_WORDS, "--data", write_archive(), "--epochs", 2, "--precision", precision)
    losses = {}
    for workers in (0, 1):
        out = tmp_path / f"run-{workers}"
        code, errors = run("train", *words, "--out", out, "--workers", workers)
        assert code == 0, errors
        rows = list(csv.DictReader((out / "history.csv").read_text().splitlines()))
        losses[workers] = [float(row["loss"]) for row in rows]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)  # a GPU's sums have no fixed order


def test_two_workers_on_one_gpu_are_refused(write_archive: WriteArchive, tmp_path: Path) -> None:
    words = ("--workers", 2, "--gpus-per-worker", 0.5, "--out", tmp_path / "run")
    code, errors = run("train", *TINY_WORDS, "--data", write_archive(), *words)
    assert (code, (tmp_path / "run" / "history.csv").exists()) == (2, False)
    assert "the workers of one training take a whole GPU each; try --gpus-per-worker 1" in errors


def test_trials_share_a_gpu_and_leave_nothing_on_it(write_archive: WriteArchive, tmp_path: Path) -> None:
    before = free_bytes()
    words = (*TINY_WORDS, "--data", write_archive(), "--epochs", 2, "--out", tmp_path / "search")
    code, errors = run("tune", *words, "--trials", 4, "--gpus-per-trial", 0.5)
    assert code == 0, errors
    assert (tmp_path / "search" / "best.safetensors").is_file()
    assert free_bytes() > before - SPARE_BYTES


@pytest.mark.parametrize("shard", ["images", "crops"])
def test_workers_that_share_a_gpu_score_as_this_process_does(
    write_archive: WriteArchive, tmp_path: Path, shard: str
) -> None:
    archive, model = write_archive(size=(160, 224)), write_model(tmp_path / "model.safetensors")
    before = free_bytes()
    found = {}
    for name, words in {
        "here": ("--workers", 0),
        "shared": ("--workers", 2, "--gpus-per-worker", 0.5, "--shard", shard),
    }.items():
        out = tmp_path / name
        code, errors = run("score", archive, "--model", model, "--out", out, *words)
        assert code == 0, errors
        found[name] = [(row["image"], row["class_pixels"]) for row in ledger_rows(out)]
        assert json.loads((out / "summary.json").read_text())["confusion"] == sum_ledger(out)
    assert found["shared"] == found["here"]
    assert free_bytes() > before - SPARE_BYTES


def test_a_cpu_scores_alike(write_archive: WriteArchive, tmp_path: Path) -> None:
    archive, model = write_archive(size=(160, 224)), write_model(tmp_path / "model.safetensors")
    matrices = []
    for name, devices in {"gpu": os.environ.get("CUDA_VISIBLE_DEVICES", "0"), "cpu": ""}.items():
        out = tmp_path / name
        code, errors = run(
            "score", archive, "--model", model, "--out", out, "--workers", 0, CUDA_VISIBLE_DEVICES=devices
        )
        assert code == 0, errors
        matrices.append(np.array(sum_ledger(out)))
    assert matrices[0].sum() == matrices[1].sum()
    assert np.abs(matrices[0] - matrices[1]).sum() < 1e-3 * matrices[0].sum()
