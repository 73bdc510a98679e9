import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.requests import ScoreRequest
from cluster.scoring.scoring import score
from cluster.session import Session
from seg.checkpoint import load_model, save_model
from seg.errors import RequestError
from tests.conftest import WriteArchive
from tests.small import write_model


def test_the_job_s_own_process_loads_no_network_library() -> None:
    """They take 5 s and 140 MiB, and a listing of a million names has 1 GiB."""
    code = (
        "import sys, cluster.scoring.scoring, cluster.scoring.score_end;"
        "print(*sys.modules.keys() & {'torchvision', 'torch._dynamo'})"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "\n"), found.stderr


@pytest.mark.ray
def test_a_model_file_of_another_network_is_refused_by_the_first_worker(
    tmp_path: Path, session: Session, write_archive: WriteArchive
) -> None:
    model = write_model(tmp_path / "model.safetensors")
    network, card = load_model(model)
    save_model(model, network, replace(card, backbone="resnet34"))
    request = ScoreRequest(archive=str(write_archive()), model=model, out=str(tmp_path / "out"), workers=1)
    with pytest.raises(RequestError, match=r"lacks tensor features\..* it is of another architecture"):
        score(request, session)
