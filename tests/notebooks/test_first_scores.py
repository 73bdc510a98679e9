"""The notebook, run in a folder of its own; then the snippets of docs/how-to/python.md, in its files."""

import base64
import io
import json
import re
from contextlib import chdir
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from PIL import Image

from tests.notebooks.running import Outputs, read_cells, run_notebook
from tests.small import ROOT

NOTEBOOK, PAGE = ROOT / "notebooks/first-scores.ipynb", ROOT / "docs/how-to/python.md"


class Ran(NamedTuple):
    folder: Path
    names: dict[str, Any]
    """What the cells left."""
    outputs: list[Outputs]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder, names = tmp_path_factory.mktemp("first-scores"), dict[str, Any]()
    with pytest.MonkeyPatch.context() as patch, chdir(folder):
        patch.setenv("FRINGE_CACHE", str(folder / "cache"))
        return Ran(folder, names, run_notebook(NOTEBOOK, names))


def describe(outputs: Outputs) -> list[tuple[str, list[str]]]:
    return [(one["output_type"], sorted(one.get("data", ()))) for one in outputs]


def test_what_the_notebook_shows_is_what_its_code_gives(ran: Ran) -> None:
    compared = 0
    for cell, outputs in zip(read_cells(NOTEBOOK), ran.outputs, strict=True):
        assert describe(cell["outputs"]) == describe(outputs)
        if "varies" not in cell["metadata"].get("tags", ()):
            assert cell["outputs"] == outputs
            compared += bool(outputs)
    assert compared >= 5


def test_its_picture_is_one_and_the_file_is_small_and_whole(ran: Ran) -> None:
    shown = [one["data"] for cell in read_cells(NOTEBOOK) for one in cell["outputs"] if "data" in one]
    (picture,) = (data["image/png"] for data in shown if "image/png" in data)
    assert Image.open(io.BytesIO(base64.b64decode(picture))).size == ran.names["found"].overlay().size
    assert NOTEBOOK.stat().st_size < 150_000
    whole = json.loads(NOTEBOOK.read_text())
    assert (whole["nbformat"], whole["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in whole["cells"]}) == len(whole["cells"])
    for count, cell in enumerate(read_cells(NOTEBOOK), start=1):
        assert cell["execution_count"] == count


def test_its_model_has_learned_and_its_scores_are_of_all_images(ran: Ran) -> None:
    assert ran.names["run"].values["miou"] > 0.6  # 0.9 as a rule; a model that learned nothing has 0.47
    assert ran.names["scores"].images.num_rows == 6


def test_every_snippet_of_the_page_runs(ran: Ran, capsys: pytest.CaptureFixture[str]) -> None:
    snippets = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert len(snippets) == 5
    names: dict[str, Any] = {}
    with chdir(ran.folder), pytest.MonkeyPatch.context() as patch:
        patch.setenv("FRINGE_CACHE", str(ran.folder / "cache"))
        for snippet in snippets:
            exec(compile(snippet, str(PAGE), "exec"), names)  # noqa: S102
    assert names["run"].values["seconds"] == ran.names["run"].values["seconds"]  # resumed: the notebook's own
    assert "did you mean interferogram-small" in capsys.readouterr().out
    assert (ran.folder / "frame.png").is_file()
