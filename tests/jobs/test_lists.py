import io
import re
import sys
from collections.abc import Callable

import pytest

from jobs import train, tune
from seg.data import DATASETS
from seg.models import MODELS
from seg.models.backbones import BACKBONES
from seg.recipes import RECIPES
from seg.train.losses import LOSSES

NAMES = {
    "recipes": set(RECIPES) | {recipe.dataset for recipe in RECIPES.values()},
    "models": set(MODELS) | {name for model in MODELS.values() for name in model.BACKBONES},
    "encoders": set(BACKBONES) | set(MODELS),
    "losses": set(LOSSES),
    "datasets": set(DATASETS),
}
"""What a list shows and somebody types."""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("what", NAMES)
def test_a_terminal_of_80_columns_cuts_no_name(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    assert train.main(["--list", what]) == 0
    shown = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue())
    assert max(map(len, shown.splitlines())) <= 80
    assert {
        name for name in NAMES[what] if name not in shown.replace(",", " ").replace("(", " ").split()
    } == set()
    if what == "recipes":
        assert len(shown.splitlines()) < 24  # and a prompt
        said = {recipe.loss for recipe in RECIPES.values()} | {recipe.model for recipe in RECIPES.values()}
        assert {name for name in said if name not in shown.split()} == set()


@pytest.mark.parametrize("main", [train.main, tune.main])
@pytest.mark.parametrize("words", [["--list"], ["--list", "recipes"]])
def test_recipes_off_a_terminal_are_a_line_each_name_first_tab_separated(
    main: Callable[[list[str]], int], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[0] for line in lines] == list(RECIPES)
    assert {len(line.split("\t")) for line in lines} == {5}
    assert "drinks-pyramid\tpyramid-fcn on resnetv2-56\tdrinks\tcross_entropy\t15.2 M" in lines


@pytest.mark.parametrize("what", sorted(NAMES.keys() - {"recipes"}))
def test_other_lists_off_a_terminal_are_a_line_each_as_well(
    what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(["--list", what]) == 0
    names = [line.split("\t")[0].partition("(")[0] for line in capsys.readouterr().out.splitlines()]
    ours = {"models": [*MODELS, "smp/NAME/ENCODER"], "losses": [*LOSSES], "datasets": [*DATASETS]}
    assert names == ours[what] if what in ours else set(names) >= BACKBONES.keys()
