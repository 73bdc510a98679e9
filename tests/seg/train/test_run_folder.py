from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from seg.data.splits import Split
from seg.errors import RequestError
from seg.locks.claim import check_folder, claim_folder
from seg.pack.training_data import TrainingData
from seg.recipe import Augmentation, Recipe
from seg.recipes import RECIPES
from seg.train.run_folder import HistoryWriter, run_identity, run_name, write_history
from seg.train.state import EpochResult, Journal

RECIPE = RECIPES["interferogram-small"]
DATA = TrainingData(Path("d"), ("a", "b"), Split((), (), "how"), "f" * 64, {}, Path("packs"))


@pytest.mark.parametrize(
    ("recipe", "name"),
    [
        (RECIPE, "e0c75272"),
        (RECIPES["interferogram-icnet"], "767e1017"),
        (RECIPES["interferogram-resnet18"], "7206903a"),
        (replace(RECIPE, augmentation=Augmentation(contrast=0.1)), "167cce19"),
    ],
)
def test_a_run_keeps_the_name_that_it_had_before_recipes_had_further_fields(
    recipe: Recipe, name: str
) -> None:
    assert run_name(recipe, run_identity(recipe, DATA, 0)) == f"{recipe.name}-{name}"


@pytest.mark.parametrize("settings", [Augmentation(scale=(0.5, 1)), Augmentation(rotate_degrees=3)])
def test_a_run_whose_pixels_were_moved_by_an_earlier_version_is_another(
    tmp_path: Path, settings: Augmentation
) -> None:
    identity = run_identity(replace(RECIPE, augmentation=settings), DATA, 0)
    claim_folder(tmp_path, {name: value for name, value in identity.items() if name != "augmenter"})
    with pytest.raises(RequestError, match="holds another run, with augmenter 1 instead of 2"):
        check_folder(tmp_path, identity)


def test_a_name_is_the_recipes_and_changes_with_the_identity() -> None:
    identity = run_identity(RECIPE, DATA, 0)
    names = {
        run_name(RECIPE, identity),
        run_name(RECIPE, run_identity(replace(RECIPE, batch=4), DATA, 0)),
        run_name(RECIPE, identity | {"seed": 1}),
    }
    assert len(names) == 3
    assert all(name.startswith("interferogram-small-") for name in names)
    assert run_name(RECIPE, identity) == run_name(RECIPE, dict(reversed(identity.items())))


def test_curves_are_drawn_as_seldom_as_takes_their_share_of_the_time_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half: dict[str, Any] = dict.fromkeys((column.name for column in fields(EpochResult)), 0.5)
    history = [EpochResult(**half | {"epoch": epoch}) for epoch in (1, 2, 3)]
    for share, expected in ((1e-9, [1]), (1e9, [1, 2, 3])):
        monkeypatch.setattr("seg.train.run_folder.CURVES_SHARE", share)
        writer, drawn = HistoryWriter(tmp_path), list[int]()
        for epoch in (1, 2, 3):
            (tmp_path / "curves.png").unlink(missing_ok=True)
            writer.write(Journal(history=history[:epoch]))
            drawn += [epoch] * (tmp_path / "curves.png").is_file()
            assert len((tmp_path / "history.csv").read_text().splitlines()) == 1 + epoch
        assert drawn == expected
        (tmp_path / "curves.png").unlink(missing_ok=True)
        write_history(tmp_path, Journal(history=history))
        assert (tmp_path / "curves.png").is_file()
