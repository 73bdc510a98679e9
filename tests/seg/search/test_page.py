import html
import math
import re
import shlex
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import FloatDistribution, IntDistribution

from jobs.options import parse
from jobs.train import Args
from seg.figures.pages import nice_ticks
from seg.recipe import Params
from seg.recipes import RECIPES
from seg.search.page import (
    as_options,
    axis_ticks,
    nice_epochs,
    place,
    short_names,
    write_page,
)
from seg.search.space import Space, choice, ends
from seg.search.study import FEWEST_JUDGED
from seg.search.trials import TrialRecord, count_trials
from seg.train.state import Journal
from tests.cluster.journals import epoch_result

SPACE: Space = {
    "optimizer.lr": FloatDistribution(3e-4, 3e-2, log=True),
    "loss": choice(("cross_entropy", "cross_entropy+dice", "<focal>&")),
    "backbone": choice(("resnet18", "resnet34", "resnet50")),
    "crops.size_px": choice(((64, 64), (128, 128))),
}
EPOCHS = 9


def make_trial(number: int, status: str = "finished", *, lr: float = 3e-3, **more: Any) -> TrialRecord:
    """A trial whose mIoU falls with the distance of its rate from 0.005, and rises with the epochs."""
    epochs = {"finished": EPOCHS, "pruned": 1 + 2 * (number % 2), "running": 4, "errored": 2}[status]
    top = 0.9 - 0.2 * abs(math.log10(lr / 5e-3)) - 0.02 * (number % 3)
    history = [epoch_result(epoch, top * (1 - 0.6 / epoch), seconds=2.5) for epoch in range(1, epochs + 1)]
    best = max((result.miou for result in history), default=-1.0)
    params: Params = {
        "optimizer.lr": lr,
        "loss": ends(SPACE["loss"])[number % 3],
        "backbone": ends(SPACE["backbone"])[number // 2 % 3],
        "crops.size_px": ends(SPACE["crops.size_px"])[number % 2],
    }
    return TrialRecord(
        number=number,
        folder=Path(f"trials/{number:03}"),
        params=params | more.pop("params", {}),
        journal=Journal(history=history, best_epoch=epochs, best_miou=best),
        status=status,
        **{"failures": [], "error": None} | more,
    )


def make_trials() -> list[TrialRecord]:
    """The recipe's own, finished and pruned ones, one tried again, one that failed twice before an epoch."""
    rates = [10 ** (-3.4 + 0.1 * index) for index in range(16)]
    trials = [make_trial(0)]
    trials += [
        make_trial(index, "finished" if index % 4 == 1 else "pruned", lr=rate)
        for index, rate in enumerate(rates, start=1)
    ]
    trials[5] = make_trial(5, lr=5e-3, failures=["OutOfMemoryError: CUDA out of memory"])
    cause = "OutOfMemoryError: <b>CUDA</b> out of memory & more"
    lost = make_trial(17, "errored", failures=[cause, cause], error=cause)
    lost.journal.history.clear()
    lost.journal.best_epoch, lost.journal.best_miou = 0, -1.0
    return sorted([*trials, lost], key=lambda trial: (-trial.journal.best_miou, trial.number))


def show(folder: Path, records: list[TrialRecord], trials: int = 0, stopped_by: str = "finished") -> str:
    figures = count_trials(records, recipe="tiny", asked=trials, seconds=1.0, stopped_by=stopped_by)
    return write_page(folder, SPACE, records, figures, []).read_text()


def text_of(page: str) -> str:
    """What a reader sees, blanks reduced."""
    body = re.sub(r"<(style|script|title)[^>]*>.*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def lines_of(page: str, section: str, svg: str = "<svg ") -> dict[str, list[tuple[float, float]]]:
    """The polyline of each trial in a section's first plot of a kind, as x and y from the top left."""
    part = page[page.index(f'<section id="{section}"') :]
    part = part[part.index(svg) :]
    pattern = r'<path class="line [^"]*" data-trial="(\d+)" d="([^"]+)"'
    found = re.findall(pattern, part[: part.index("</svg>")])
    return {
        name: [(float(x), float(y)) for x, y in re.findall(r"[ML](\S+) ([\d.]+)", d)] for name, d in found
    }


def test_the_page_has_every_trial_with_its_settings_its_end_and_its_cause(tmp_path: Path) -> None:
    trials = make_trials()
    page = text_of(show(tmp_path, trials))
    board = page[page.index("Leaderboard") :]
    for trial in trials:
        assert f"{trial.name}" in board
        assert trial.params["loss"] in board
        assert trial.miou is None or f"{trial.miou:.4f}" in board
    assert "OutOfMemoryError: <b>CUDA</b> out of memory & more (twice)" in board
    assert "Tried again after: OutOfMemoryError: CUDA out of memory" in board
    assert "18 trials with" in page
    assert "1 trial failed" in page
    best, own = trials[0], next(trial for trial in trials if trial.number == 0)
    assert best.miou is not None
    assert own.miou is not None
    assert f"{best.miou - own.miou:+.4f}" in page
    order = [float(value) for value in re.findall(r"\b0\.\d{4}\b", board)]
    assert order[:5] == sorted(order[:5], reverse=True)


def test_the_page_is_the_same_for_the_same_trials_and_refers_to_nothing_outside(tmp_path: Path) -> None:
    first, second = show(tmp_path, make_trials()), show(tmp_path, make_trials())
    assert first == second
    assert "http" not in first.replace("http-equiv", "")
    assert "<b>CUDA</b>" not in first
    assert "<focal>" not in first


def test_curves_go_through_each_epochs_miou_and_pruned_ones_end_in_a_mark(tmp_path: Path) -> None:
    trials = make_trials()
    page = show(tmp_path, trials)
    lines = lines_of(page, "curves")
    drawn = {trial.name: trial for trial in trials if trial.miou is not None}
    assert set(lines) == set(drawn)
    places = [
        (y, result.miou)
        for name, line in lines.items()
        for (_, y), result in zip(line, drawn[name].journal.history, strict=True)
    ]
    (y0, miou0), (y1, miou1) = min(places, key=lambda at: at[1]), max(places, key=lambda at: at[1])
    for y, miou in places:  # one straight scale for all of them, growing upwards
        assert y == pytest.approx(y0 + (miou - miou0) / (miou1 - miou0) * (y1 - y0), abs=2e-5)
    assert y1 < y0
    for name, line in lines.items():
        count = drawn[name].journal.epochs_done
        assert [x for x, _ in line] == pytest.approx([at / (EPOCHS - 1) for at in range(count)], abs=1e-5)
        assert (f'<path class="dot pruned" data-trial="{name}"' in page) == (drawn[name].status == "pruned")


@pytest.mark.parametrize("svg", ['<svg class="right"', '<svg class="down"'])
def test_parallel_coordinates_lead_each_trial_through_its_settings_to_its_miou(
    tmp_path: Path, svg: str
) -> None:
    trials = [trial for trial in make_trials() if trial.miou is not None]
    lines = lines_of(show(tmp_path, trials), "coordinates", svg)
    assert list(lines)[-1] == trials[0].name  # the best is drawn over the others
    for trial in trials:
        along = [(x, 1 - y) if "right" in svg else (y, x) for x, y in lines[trial.name]]
        assert [axis for axis, _ in along] == pytest.approx([0, 0.25, 0.5, 0.75, 1])
        rate, loss, backbone, crops, _ = (height for _, height in along)
        assert rate == pytest.approx(math.log(trial.params["optimizer.lr"] / 3e-4) / math.log(100), abs=1e-5)
        assert loss == ends(SPACE["loss"]).index(trial.params["loss"]) / 2
        assert backbone == ends(SPACE["backbone"]).index(trial.params["backbone"]) / 2
        assert crops == (0 if trial.params["crops.size_px"] == (64, 64) else 1)


def test_what_matters_is_said_once_there_are_enough_trials(tmp_path: Path) -> None:
    rates = [10 ** (-3.4 + 0.1 * index) for index in range(18)]
    trials = [make_trial(index, lr=rate) for index, rate in enumerate(rates)]
    page = show(tmp_path, trials)
    rows = re.findall(r'<th scope="row">([^<]+)</th><td><span class="bar">.*?(\d+) %</td>', page)
    assert rows[0][0] == "lr"  # it alone moves the mIoU by more than a hair
    assert sum(int(share) for _, share in rows) == pytest.approx(100, abs=2)
    assert f"it takes {FEWEST_JUDGED} trials" in show(tmp_path, trials[: FEWEST_JUDGED - 1])


def test_an_interrupted_search_says_so_and_shows_what_there_is(tmp_path: Path) -> None:
    trials = [make_trial(0, "running"), make_trial(1, "pruned", lr=1e-3)]
    page = text_of(show(tmp_path, trials, trials=16, stopped_by="interrupt"))
    assert "Interrupted; the same command goes on from here. 2 trials of 16 with" in page
    assert "1 under way" in page
    empty = text_of(show(tmp_path, [], trials=16, stopped_by="interrupt"))
    assert "0 trials of 16" in empty
    assert "No trial has begun." in empty


def test_a_recipe_outside_the_space_is_listed_and_not_drawn(tmp_path: Path) -> None:
    trials = [make_trial(1, lr=5e-3), make_trial(0, lr=0.5)]
    page = show(tmp_path, trials)
    assert set(lines_of(page, "coordinates")) == {"001"}
    assert set(lines_of(page, "curves")) == {"000", "001"}
    assert "1 trial cannot be drawn, as its settings lie outside the searched space" in text_of(page)


def test_the_winners_settings_are_options_of_a_training(tmp_path: Path) -> None:
    recipe = RECIPES["interferogram-small"]
    searched = ("optimizer.lr", "loss", "crops.size_px", "crops.flip_rows", "compile")
    own = {name: attrgetter(name)(recipe) for name in searched}
    best = own | {"loss": "focal(alpha=0.8,gamma=2)", "crops.size_px": (32, 64), "compile": True}
    best |= {"crops.flip_rows": not own["crops.flip_rows"]}
    best |= {"optimizer.schedule": "step", "optimizer.steps": ((3, 0.1), (5, 0.01))}
    own |= {"optimizer.schedule": "one_cycle", "optimizer.steps": ()}
    assert as_options(best, own) == (
        "--loss 'focal(alpha=0.8,gamma=2)' --crops.size-px 32 64 --crops.no-flip-rows --compile "
        "--optimizer.schedule step --optimizer.steps 3 0.1 5 0.01"
    )
    assert (
        as_options({"crops.flip_columns": False}, {"crops.flip_columns": True}) == "--crops.no-flip-columns"
    )
    assert as_options(own, own) == ""
    args = parse(Args, ["interferogram-small", *shlex.split(as_options(best, own))])
    assert {name: attrgetter(name)(args.recipe) for name in best} == best


def test_names_lose_their_group_where_they_stay_distinct() -> None:
    names = ["optimizer.lr", "crops.size_px", "preprocessing.size_px", "loss"]
    assert short_names(names) == ["lr", "crops.size_px", "preprocessing.size_px", "loss"]


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (0.31, 0.34), (0.5, 0.5), (0.0, 0.0), (0.123456, 0.98)]
)
def test_ticks_are_few_even_and_around_all_values(low: float, high: float) -> None:
    ticks = nice_ticks([low, high])
    assert ticks[0] <= low
    assert ticks[-1] >= high
    assert 2 <= len(ticks) <= 7
    steps = [after - before for before, after in pairwise(ticks)]
    assert steps == pytest.approx([steps[0]] * len(steps))
    assert f"{steps[0]:.0e}"[0] in "125"


@pytest.mark.parametrize("last", [1, 2, 3, 5, 9, 20, 27, 60, 137, 1000])
def test_epochs_are_marked_from_the_first_to_the_last(last: int) -> None:
    marks = nice_epochs(last)
    assert marks[0] == 1
    assert marks[-1] == last
    assert marks == sorted(set(marks))
    assert len(marks) <= 7


def test_an_axis_labels_its_ends_and_every_choice() -> None:
    assert [text for _, text in axis_ticks(SPACE["loss"])] == list(ends(SPACE["loss"]))
    assert axis_ticks(SPACE["optimizer.lr"]) == [
        (0.0, "0.0003"),
        (pytest.approx(math.log(1e-3 / 3e-4) / math.log(100)), "0.001"),
        (pytest.approx(math.log(1e-2 / 3e-4) / math.log(100)), "0.01"),
        (1.0, "0.03"),
    ]
    assert axis_ticks(IntDistribution(2, 8)) == [(0.0, "2"), (0.5, "5"), (1.0, "8")]
    assert place(choice(("only",)), "only") == 0.5


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 820, 400])
def test_a_browser_shows_it_all_without_scrolling_sideways(
    browser: Any, tmp_path: Path, width: int, scheme: str
) -> None:
    show(tmp_path, make_trials())
    complaints: list[str] = []
    tab = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("request", lambda asked: complaints.extend([asked.url] * asked.url.startswith("http")))
    tab.goto((tmp_path / "search.html").as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    shown = "all => all.map(one => one.getBoundingClientRect()).map(box => [box.width, box.height])"
    plots = tab.eval_on_selector_all(".plot svg:not([hidden])", shown)
    assert sum(wide > 250 and high > 150 for wide, high in plots) == 2  # of three, one orientation is hidden
    for words, most_px in ((".coordinates .tick", 45), ("#options .word", 30)):
        heights = [high for _, high in tab.eval_on_selector_all(words, shown)]
        assert 0 < max(heights) < most_px  # a few lines at most, and not a line a letter
    assert complaints == []
    tab.close()


def test_the_leaderboard_sorts_by_a_click_a_trial_lights_up_and_it_prints(
    browser: Any, tmp_path: Path
) -> None:
    trials = make_trials()
    show(tmp_path, trials)
    tab = browser.new_page()
    tab.goto((tmp_path / "search.html").as_uri())
    read = "all => all.map(one => one.dataset.trial)"
    assert tab.eval_on_selector_all(".leaders tbody", read) == [trial.name for trial in trials]
    tab.click(".leaders thead th:nth-child(1) button")
    assert tab.eval_on_selector_all(".leaders tbody", read) == sorted(trial.name for trial in trials)
    tab.click(".leaders thead th:nth-child(1) button")
    assert tab.eval_on_selector_all(".leaders tbody", read) == sorted((t.name for t in trials), reverse=True)
    tab.hover('.leaders tbody[data-trial="003"]')
    lit = tab.eval_on_selector_all(".line.on", read)
    assert lit == ["003"] * 3  # its curve, and its coordinates in both orientations
    assert tab.pdf(format="A4").startswith(b"%PDF")
    tab.close()
