from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from seg.errors import RequestError
from seg.files import read_json
from seg.recipe import Optimizer, recipe_to_dict
from seg.recipes import RECIPES
from seg.run_folder import claim_folder, read_run, run_name

RECIPE = RECIPES["interferogram-small"]


def make_identity(**changes: Any) -> dict[str, Any]:
    recipe = recipe_to_dict(replace(RECIPE, **changes))
    return {"recipe": recipe, "data_fingerprint": "f" * 64, "train": ["a", "b"], "split": "how", "seed": 0}


def test_a_folder_is_claimed_once_and_found_again(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "x"
    claim_folder(folder, make_identity())
    before = (folder / "run.json").stat().st_mtime_ns
    claim_folder(folder, make_identity())
    assert (folder / "run.json").stat().st_mtime_ns == before
    assert read_json(folder / "run.json")["recipe"]["name"] == RECIPE.name
    assert read_run(folder) is None


@pytest.mark.parametrize(
    ("other", "text"),
    [
        (make_identity(batch=4), "recipe.batch 8 instead of 4"),
        (make_identity(optimizer=Optimizer(lr=0.5)), "recipe.optimizer.lr 0.003 instead of 0.5"),
        (make_identity() | {"seed": 3}, "seed 0 instead of 3"),
        (make_identity() | {"train": ["a"]}, "other values of train"),
        (make_identity() | {"new": 1}, "new None instead of 1"),
    ],
)
def test_a_folder_of_another_run_is_refused_by_field(
    tmp_path: Path, other: dict[str, Any], text: str
) -> None:
    claim_folder(tmp_path / "x", make_identity())
    with pytest.raises(RequestError, match=f"--out .*x holds another run, with {text}; give another --out"):
        claim_folder(tmp_path / "x", other)
    assert read_json(tmp_path / "x/run.json")["recipe"]["batch"] == 8


def test_a_folder_without_a_reader_is_of_the_first_and_passes_only_where_the_caller_judges(
    tmp_path: Path,
) -> None:
    claim_folder(tmp_path / "x", make_identity())
    second = make_identity() | {"reader": 2}
    with pytest.raises(RequestError, match=r"holds another run, with reader 1 instead of 2; give another"):
        claim_folder(tmp_path / "x", second)
    claim_folder(tmp_path / "x", second, older_reader=True)
    with pytest.raises(RequestError, match=r"with recipe.batch 8 instead of 4"):
        claim_folder(tmp_path / "x", second | make_identity(batch=4), older_reader=True)
    assert "reader" not in read_json(tmp_path / "x" / "run.json")
    claim_folder(tmp_path / "y", make_identity() | {"reader": 3})
    with pytest.raises(RequestError, match=r"with reader 3 instead of 2"):
        claim_folder(tmp_path / "y", second, older_reader=True)


def test_a_folder_of_other_files_and_a_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(RequestError, match=r"holds other files and no run.json"):
        claim_folder(tmp_path, make_identity())
    with pytest.raises(RequestError, match=r"notes.txt is a file"):
        claim_folder(tmp_path / "notes.txt", make_identity())


def test_a_name_is_the_recipes_and_changes_with_the_identity() -> None:
    names = {
        run_name(make_identity()),
        run_name(make_identity(batch=4)),
        run_name(make_identity() | {"seed": 1}),
    }
    assert len(names) == 3
    assert all(name.startswith("interferogram-small-") for name in names)
    assert run_name(make_identity()) == run_name(dict(reversed(make_identity().items())))
