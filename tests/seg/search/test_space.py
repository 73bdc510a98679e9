import json
from dataclasses import asdict, replace
from math import log
from operator import attrgetter
from pathlib import Path
from statistics import fmean, median
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution, IntDistribution

from seg.errors import RequestError
from seg.recipe import Optimizer, Recipe, apply_params
from seg.recipes import RECIPES
from seg.search.space import (
    FIXED,
    Axis,
    Space,
    check_size,
    check_space,
    choice,
    ends,
    holds,
    is_inside,
    parse_search,
    parse_value,
    plain_axis,
    recipe_fields,
)
from seg.search.study import importance, propose
from seg.search.trials import TrialRecord
from seg.train.state import Journal
from tests.cluster.journals import epoch_result

RECIPE = RECIPES["interferogram-small"]


def check(words: list[str]) -> list[tuple[str, Recipe]]:
    space = parse_search(words)
    return check_space(space, RECIPE, {name: attrgetter(name)(RECIPE) for name in space})


def refused(*words: str) -> str:
    with pytest.raises(RequestError) as caught:
        parse_search(words)
    return str(caught.value)


@pytest.mark.parametrize(
    ("word", "axis"),
    [
        ("optimizer.weight_decay=loguniform(1e-6,1e-2)", FloatDistribution(1e-6, 1e-2, log=True)),
        ("optimizer.weight-decay = uniform( 0, 0.5 )", FloatDistribution(0.0, 0.5)),
        ("--optimizer.weight-decay=uniform(0,0.5)", FloatDistribution(0.0, 0.5)),
        ("batch=int(2,8)", IntDistribution(2, 8)),
        ("batch=randint(2,8)", IntDistribution(2, 8)),
        ("batch=loguniform(2,64)", IntDistribution(2, 64, log=True)),
        ("batch=uniform(2,64)", IntDistribution(2, 64)),
        ("preprocessing.shrink=int(1,4)", FloatDistribution(1.0, 4.0, step=1)),
        (
            "loss=choice(dice, focal(alpha=0.8,gamma=2)+dice)",
            choice(("dice", "focal(alpha=0.8,gamma=2)+dice")),
        ),
        ("optimizer.name=choice(adam,sgd)", choice(("adam", "sgd"))),
        ("preprocessing.channels=choice(1,3)", choice((1, 3))),
        ("crops.flip_rows=choice(true,False)", choice((True, False))),
        ("backbone=choice(None,resnet34)", choice((None, "resnet34"))),
        ("crops.size_px=choice((64,64),[128, 128])", choice(((64, 64), (128, 128)))),
        ("optimizer.steps=choice((),((3,0.1),(5,0.01)))", choice(((), ((3, 0.1), (5, 0.01))))),
        ("class_weights=choice(median_frequency,(1,2.5))", choice(("median_frequency", (1.0, 2.5)))),
        ("preprocessing.size_px=choice(None,(32,64))", choice((None, (32, 64)))),
    ],
)
def test_a_distribution_is_typed_by_the_recipes_field(word: str, axis: Axis) -> None:
    (parsed,) = parse_search([word]).values()
    assert parsed == axis
    assert [type(end) for end in ends(parsed)] == [type(end) for end in ends(axis)]


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        (
            "optimizer.lr",
            "`search=optimizer.lr` gives no values; "
            "write it like `search='optimizer.weight-decay=loguniform(1e-6,1e-2)'`",
        ),
        ("lr=uniform(0,1)", "`search=lr`: unknown recipe field; did you mean optimizer.lr?"),
        (
            "size_px=choice((64,64))",
            "`search=size_px`: unknown recipe field; did you mean preprocessing.size_px or crops.size_px?",
        ),
        (
            "epochs=int(1,9)",
            "`search=epochs`: it is what every trial may spend; set it for all with `epochs`, so",
        ),
        (
            "dataset=choice(plain)",
            "`search=dataset`: it decides which pixels are counted, so that it is the same",
        ),
        (
            "optimizer.lr=lognormal(1,2)",
            "`search=optimizer.lr`: unknown distribution 'lognormal'; did you mean loguniform? "
            "known: choice, int, loguniform, randint, uniform",
        ),
        (
            "optimizer.lr=1e-3",
            "`search=optimizer.lr`: '1e-3' is not like loguniform(1e-4,1e-1), uniform(0,1), int(2,8) or "
            "choice(a,b)",
        ),
        ("optimizer.lr=uniform(1,x)", "`search=optimizer.lr`: 'x' is not a number"),
        ("optimizer.lr=uniform(1,nan)", "`search=optimizer.lr`: 'nan' is not a number"),
        (
            "optimizer.lr=uniform(1)",
            "`search=optimizer.lr`: uniform takes two numbers, but 1 are given; write uniform(LOW,HIGH)",
        ),
        (
            "optimizer.lr=uniform(2,1)",
            "`search=optimizer.lr`: uniform(2,1) does not rise; write the lower number first",
        ),
        (
            "optimizer.lr=loguniform(0,1)",
            "`search=optimizer.lr`: loguniform begins at 0, which has no logarithm; begin above 0",
        ),
        ("batch=uniform(0.5,8)", "`search=batch`: '0.5' is not a whole number"),
        ("batch=choice(2,many)", "`search=batch`: 'many' is not a whole number"),
        ("loss=uniform(0,1)", "`search=loss`: it is text, no number of a range; use choice(a,b)"),
        ("crops.flip_rows=choice(yes)", "`search=crops.flip_rows`: 'yes' is not true or false"),
        ("crops.flip_rows=int(0,1)", "`search=crops.flip_rows`: it is true or false, no number of a range"),
        ("optimizer.name=choice(lion)", "`search=optimizer.name`: 'lion' is not one of adam, adamw, sgd"),
        (
            "crops.size_px=choice(64)",
            "`search=crops.size_px`: '64' is not (a whole number, a whole number)",
        ),
        (
            "crops.size_px=choice((64,64,64))",
            "`search=crops.size_px`: '(64,64,64)' is not (a whole number, a",
        ),
        (
            "class_weights=choice(x)",
            "`search=class_weights`: 'x' is not one of median_frequency or a list in parentheses, each a "
            "number",
        ),
        ("batch=choice()", "`search=batch`: 'choice()' must name at least one value, and none twice"),
        ("batch=choice(2,2)", "`search=batch`: 'choice(2,2)' must name at least one value, and none twice"),
        ("batch=choice(__import__('os'))", "`search=batch`: \"__import__('os')\" is not a whole number"),
    ],
)
def test_what_is_no_search_is_refused_by_field(word: str, sentence: str) -> None:
    assert refused(word).startswith(sentence)


def test_an_unknown_field_names_the_nearest_and_one_given_twice_is_refused() -> None:
    line = refused("optimiser.weight_decay=uniform(0,1)")
    assert line.startswith(
        "`search` unknown recipe field 'optimiser.weight_decay'; did you mean optimizer.weight_decay"
    )
    words = ("batch=int(2,8)", "batch=int(2,9)")
    assert refused(*words) == "`search` names batch twice; give one distribution"


def test_every_field_of_a_recipe_reads_back_its_own_value_from_text() -> None:
    for recipe in RECIPES.values():
        for name, hint in recipe_fields():
            value = attrgetter(name)(recipe)
            if name not in FIXED and value != "":
                assert parse_value(str(value), hint) == value, name


def test_the_fields_are_those_of_the_recipe() -> None:
    def flatten(values: dict[str, object], prefix: str = "") -> list[str]:
        return [
            name
            for key, value in values.items()
            for name in (flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else [f"{prefix}{key}"])
        ]

    assert list(dict(recipe_fields())) == flatten(asdict(RECIPE))
    assert set(FIXED) <= set(dict(recipe_fields()))


def test_a_space_in_run_json_is_as_it_always_was() -> None:
    words = ["batch=int(2,8)", "crops.size_px=choice((64,64),(32,32))", "backbone=choice(None,resnet34)"]
    space = parse_search([*words, "optimizer.lr=loguniform(1e-4,1e-1)", "preprocessing.shrink=int(1,4)"])
    assert json.dumps({name: plain_axis(axis) for name, axis in space.items()}) == (
        '{"batch": {"low": 2, "high": 8, "log": false, "whole": true}, '
        '"crops.size_px": {"choice": [[64, 64], [32, 32]]}, "backbone": {"choice": [null, "resnet34"]}, '
        '"optimizer.lr": {"low": 0.0001, "high": 0.1, "log": true, "whole": false}, '
        '"preprocessing.shrink": {"low": 1.0, "high": 4.0, "log": false, "whole": true}}'
    )


@pytest.mark.parametrize("value", ["0.003", True, None, (1,), float("nan"), -0.003, 0.2])
def test_a_range_holds_numbers_alone(value: Any) -> None:
    assert not holds(FloatDistribution(1e-4, 1e-1, log=True), value)
    assert not holds(IntDistribution(1, 4), value)


def test_settings_change_what_they_name_and_nothing_else() -> None:
    params = {"optimizer.lr": 0.5, "optimizer.name": "sgd", "loss": "focal", "crops.flip_rows": True}
    changed = apply_params(RECIPE, params)
    assert changed.optimizer == replace(RECIPE.optimizer, lr=0.5, name="sgd")
    assert (changed.loss, changed.crops.flip_rows) == ("focal", True)
    back = replace(changed, loss=RECIPE.loss, optimizer=RECIPE.optimizer, crops=RECIPE.crops)
    assert back == RECIPE
    assert apply_params(RECIPE, {}) == RECIPE
    together = {"optimizer.schedule": "step", "optimizer.steps": ((1, 0.5),)}  # either alone is refused
    assert apply_params(RECIPE, together).optimizer.steps == ((1, 0.5),)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["optimizer.lr=uniform(-1,1)"],
            "`search=optimizer.lr=-1`: recipe: optimizer.lr is -1.0, not above 0",
        ),
        (
            ["tiling.halo_px=int(0,64)"],
            "`search=tiling.halo_px=1`: recipe: tiling.halo_px is 1, not a multiple",
        ),
        (["batch=int(0,4)"], "`search=batch=0`: recipe: batch is 0"),
        (
            ["crops.size_px=choice((64,64),(65,64))"],
            "`search=crops.size_px=(65, 64)`: recipe: crops.size_px is",
        ),
        (
            ["tiling.crop_px=choice((512,512),(64,64))", "tiling.halo_px=choice(0,32)"],
            "`search=tiling.crop_px=(64, 64) tiling.halo_px=32`: recipe: tiling.halo_px 32 leaves no core",
        ),
        (
            ["optimizer.schedule=choice(step,constant)"],
            "`search=optimizer.schedule=step`: recipe: optimizer.sched",
        ),
    ],
)
def test_what_the_recipe_refuses_is_refused_before_anything_starts(words: list[str], sentence: str) -> None:
    with pytest.raises(RequestError) as caught:
        check(words)
    assert str(caught.value).startswith(sentence)


def test_every_choice_and_every_pair_of_two_fields_is_tried() -> None:
    words = ["loss=choice(dice,focal,lovasz)", "batch=int(2,5)", "optimizer.name=choice(adam,sgd)"]
    recipes = [recipe for _, recipe in check(words)]
    assert {recipe.batch for recipe in recipes} == {2, 3, 4, 5}
    pairs = {(recipe.loss, recipe.optimizer.name) for recipe in recipes}
    assert {(loss, name) for loss in ("dice", "focal", "lovasz") for name in ("adam", "sgd")} <= pairs


def test_more_trials_than_there_are_different_ones_are_refused() -> None:
    space = parse_search(["loss=choice(dice,focal)", "batch=int(2,4)"])
    own = {"loss": "dice", "batch": 8}  # outside: one more
    check_size(space, own, 7)
    with pytest.raises(RequestError, match="`trials=8`, but the space has 7 different ones; try `trials=7`"):
        check_size(space, own, 8)
    with pytest.raises(RequestError, match="try `trials=6`"):
        check_size(space, own | {"batch": 4}, 7)
    check_size(SPACE, {name: attrgetter(name)(RECIPE) for name in SPACE}, 10**6)


def record(
    number: int, params: dict[str, Any], miou: float | None = None, status: str = "finished"
) -> TrialRecord:
    journal = Journal()
    if miou is not None:
        journal = Journal([epoch_result(1, miou, seconds=1.0)], best_epoch=1, best_miou=miou)
    return TrialRecord(number, Path(f"{number:03}"), params, journal, [], status, None)


SPACE: Space = {
    "optimizer.lr": FloatDistribution(1e-4, 1e-1, log=True),
    "batch": IntDistribution(2, 16),
    "preprocessing.shrink": FloatDistribution(1.0, 4.0, step=1),
    "loss": choice(("dice", "focal")),
    "crops.size_px": choice(((64, 64), (128, 128))),
}


def run_search(count: int, space: Space = SPACE, seed: int = 0) -> list[TrialRecord]:
    """A search one trial at a time, whose mIoU is best at a rate of 0.003 with a batch of 16."""
    trials: list[TrialRecord] = []
    for number in range(count):
        params = propose(space, trials, number, seed)
        rate, batch = params.get("optimizer.lr", 3e-3), params.get("batch", 16)
        trials.append(record(number, params, 0.9 - 0.1 * abs(log(rate / 3e-3)) + batch / 160))
    return trials


def test_proposals_lie_in_the_space_and_have_the_fields_types() -> None:
    for trial in run_search(14):
        assert is_inside(SPACE, trial.params)
        assert [type(value) for value in trial.params.values()] == [float, int, float, str, tuple]
        assert apply_params(RECIPE, trial.params)


def test_a_search_that_is_told_its_past_goes_on_as_if_it_had_not_stopped() -> None:
    whole = run_search(14)
    for kept in (0, 1, 11, 13):  # 11: past the trials that Optuna draws at random
        assert propose(SPACE, reversed(whole[:kept]), kept, seed=0) == whole[kept].params
    assert run_search(3, seed=1)[0].params != whole[0].params


def test_what_is_proposed_with_knowledge_is_better_than_what_is_drawn_at_random() -> None:
    space = {name: SPACE[name] for name in ("optimizer.lr", "batch")}
    searches = [[trial.miou or 0.0 for trial in run_search(30, space, seed)] for seed in range(5)]
    random, late = (
        fmean(map(median, part)) for part in ([s[:10] for s in searches], [s[20:] for s in searches])
    )
    assert late > random + 0.04  # the noise of either mean is 0.016


def test_trials_that_run_at_the_same_time_differ_and_none_is_tried_twice() -> None:
    space = parse_search(["loss=choice(dice,focal)", "batch=int(2,16)"])
    trials: list[TrialRecord] = []
    for number in range(30):
        miou = 0.5 + 0.01 * number % 0.1 if number % 2 else None
        trials.append(
            record(number, propose(space, trials, number, seed=0), miou, "finished" if miou else "running")
        )
    assert len({tuple(trial.params.values()) for trial in trials}) == 30  # all there are


def test_failed_trials_and_those_outside_the_space_do_not_lead_the_search() -> None:
    trials = run_search(12)
    outside = record(12, trials[0].params | {"optimizer.lr": 7.0}, 0.99)
    failed = record(13, trials[0].params, None, "errored")
    assert propose(SPACE, [*trials, outside, failed], 14, seed=0) == propose(SPACE, trials, 14, seed=0)


def test_importance_is_that_of_what_moves_the_miou() -> None:
    trials = run_search(40, {name: SPACE[name] for name in ("optimizer.lr", "loss", "crops.size_px")})
    found = importance({name: SPACE[name] for name in trials[0].params}, trials)
    assert next(iter(found)) == "optimizer.lr"
    assert found["optimizer.lr"] > 0.6
    assert sum(found.values()) == pytest.approx(1)
    assert importance(SPACE, []) == {}
    same = [replace(trial, journal=replace(trial.journal, best_miou=0.5)) for trial in trials]
    assert importance({name: SPACE[name] for name in trials[0].params}, same) == {}


@given(st.text("abhintcoe(),[]=+. 19", max_size=12))
def test_whatever_the_text_the_answer_is_a_space_or_one_sentence(text: str) -> None:
    try:
        (axis,) = parse_search([f"batch={text}"]).values()
    except RequestError as error:
        line = str(error)
    else:
        line = f"`search=batch`: {ends(axis)}"
    assert line.startswith("`search=batch`: ")
    assert "\n" not in line


def test_the_whole_of_a_recipe_can_be_rebuilt_from_its_own_values() -> None:
    values = {name: attrgetter(name)(RECIPE) for name, _ in recipe_fields()}
    assert apply_params(replace(RECIPE, optimizer=Optimizer(), batch=1), values) == RECIPE
    assert isinstance(apply_params(RECIPE, values), Recipe)
