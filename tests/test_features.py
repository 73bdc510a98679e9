import ast
from functools import reduce
from pathlib import Path

import pytest

from seg.models import MODELS
from seg.recipes import RECIPES
from seg.train.losses import build_loss
from tests.commands import parse_command
from tests.features import COMPARED, METRIC, OPEN, PAGE, SYSTEMS, make_page

TESTS = Path(__file__).parent
ROWS = [row for rows in SYSTEMS.values() for row in rows]
FEATURES = [row for row in ROWS if len(row) == 3]
OWN = {"interferogram-small", "camvid-icnet", "camvid-fpn-mobilenet", "drinks-fpn-mobilenet"}


def test_the_page_is_what_the_generator_writes() -> None:
    assert PAGE.read_text(encoding="utf-8") == make_page(), "run python -m tests.features"


def test_every_test_that_is_named_is_there() -> None:
    named = {test for _, _, test in FEATURES}
    files = {TESTS / test.split("::")[0] for test in named}
    there = {
        f"{file.relative_to(TESTS).as_posix()}::{node.name}"
        for file in files
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    }
    assert named - there == set()


@pytest.mark.parametrize("command", sorted({command for _, command, _ in FEATURES}))
def test_every_command_is_one_that_its_job_takes(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    parse_command(command)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", ["train interferogram-icnet --patiense 5", "train --loss focal --n 1"])
def test_a_command_with_an_option_that_is_none_would_be_noticed(words: str) -> None:
    with pytest.raises(SystemExit):
        parse_command(words)


def test_every_row_is_a_feature_or_missing_and_every_recipe_is_compared_or_our_own() -> None:
    assert {len(row) for row in ROWS} == {2, 3}
    assert RECIPES.keys() == COMPARED.keys() | OWN


@pytest.mark.parametrize("name", COMPARED)
def test_our_column_is_the_recipe_and_a_difference_has_its_reason(name: str) -> None:
    recipe = RECIPES[name]
    section = PAGE.read_text(encoding="utf-8").split(f"### {name}\n")[1].split("\n#")[0]
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in section.splitlines()
        if line.startswith("| `")
    ]
    assert {field.strip("`") for field, *_ in rows} == COMPARED[name].keys()
    for field, theirs, ours, why in rows:
        assert theirs in (ours, OPEN) or why, f"{field}: {theirs} there, {ours} here, and no reason"
        if field == "`metric`":
            assert ours == METRIC
            continue
        value = reduce(getattr, field.strip("`").split("."), recipe)
        if field == "`loss`":
            assert build_loss(ours) == build_loss(value)
        elif field == "`backbone`":
            assert ours == (value or MODELS[recipe.model].BACKBONES[0])
        elif field == "`output_weights`":
            assert ast.literal_eval(ours) == (value or MODELS[recipe.model].OUTPUT_WEIGHTS)
        else:
            assert (ours if isinstance(value, str) else ast.literal_eval(ours)) == value
