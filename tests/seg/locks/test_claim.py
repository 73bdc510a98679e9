from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from seg.errors import RequestError
from seg.files import read_json
from seg.locks.claim import check_folder, claim_folder, grow
from seg.plain_data import to_plain
from seg.recipe import Optimizer
from seg.recipes import RECIPES
from seg.storage import Place, as_place
from seg.train.state import read_run

RECIPE = RECIPES["interferogram-small"]


def make_identity(**changes: Any) -> dict[str, Any]:
    recipe = asdict(replace(RECIPE, **changes))
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
    with pytest.raises(RequestError, match=f"`out=.*x` holds another run, with {text}; give another `out`"):
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
    with pytest.raises(RequestError, match=r"notes.txt` is a file"):
        claim_folder(tmp_path / "notes.txt", make_identity())


def test_to_look_at_a_folder_writes_nothing_and_says_whether_it_is_claimed(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    assert not check_folder(folder, make_identity())
    assert not folder.exists()
    claim_folder(folder, make_identity())
    assert check_folder(folder, make_identity())
    with pytest.raises(RequestError, match="holds another run"):
        check_folder(folder, make_identity(batch=4))


@pytest.mark.parametrize("name", ["lock-1.json", "lock-3-00ff.json", "ask-3-00ff.json", ".run.json.ab.part"])
def test_what_a_job_leaves_before_it_claims_a_folder_is_no_other_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    claim_folder(tmp_path, make_identity())
    assert check_folder(tmp_path, make_identity())


@pytest.mark.parametrize("claimed", [make_identity(), make_identity(batch=4)])
def test_a_folder_that_another_job_claims_while_we_look_is_what_it_has_become(
    claimed: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other job is done between our look for run.json and our list of what else lies there."""
    look = Place.entries

    def entries_a_moment_later(place: Place) -> list[str]:
        monkeypatch.undo()
        claim_folder(place, claimed)
        return look(place)

    monkeypatch.setattr(Place, "entries", entries_a_moment_later)
    if claimed == make_identity():
        assert check_folder(tmp_path, make_identity())
    else:
        with pytest.raises(RequestError, match=r"holds another run, with recipe.batch 4 instead of 8"):
            check_folder(tmp_path, make_identity())


def grown(folder: Path, epochs: int, horizon: Any) -> dict[str, Any]:
    """What run.json says after a command with so many epochs."""
    identity = grow([as_place(folder).read_json("run.json")], make_identity(epochs=epochs), horizon)
    claim_folder(folder, identity)
    claim_folder(folder, identity)
    assert read_json(folder / "run.json") == identity
    return identity


def test_epochs_alone_grow_and_the_schedule_stays_or_stretches(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    claim_folder(folder, make_identity(epochs=8))
    assert "horizon" not in grown(folder, 8, "stretch")  # nothing grew
    assert grown(folder, 12, "keep") == to_plain(make_identity(epochs=12) | {"horizon": 8})
    assert grown(folder, 12, "stretch")["horizon"] == 8  # the same number later says nothing new
    assert grown(folder, 13, "keep")["horizon"] == 8
    assert grown(folder, 16, "stretch")["horizon"] == 16
    assert grown(folder, 20, "keep")["horizon"] == 16
    with pytest.raises(RequestError, match=r"^`epochs=8`: the run has 20 already; try `epochs=20`$"):
        grown(folder, 8, "keep")
    with pytest.raises(RequestError, match=r"holds another run, with recipe.batch 8 instead of 4"):
        claim_folder(
            folder, grow([read_json(folder / "run.json")], make_identity(epochs=24, batch=4), "keep")
        )
    assert read_json(folder / "run.json")["recipe"]["epochs"] == 20


def test_the_furthest_of_folder_and_checkpoints_decides() -> None:
    here, there = to_plain(make_identity(epochs=8)), to_plain(make_identity(epochs=12) | {"horizon": 12})
    for claims in ([here, there], [None, there], [there, here]):
        assert grow(claims, make_identity(epochs=12), "keep")["horizon"] == 12


@pytest.mark.parametrize("horizon", [0, 9, -1, "8", None, True, 8.0, [8]])
def test_a_horizon_that_no_run_has_is_damage(horizon: Any) -> None:
    damaged = to_plain(make_identity(epochs=8)) | {"horizon": horizon}
    with pytest.raises(RequestError, match=r"run.json is damaged: its horizon is .* of 8 epochs; put it"):
        grow([damaged], make_identity(epochs=12), "keep")


@pytest.mark.parametrize("found", [None, [], "x", {}, {"recipe": None}, {"recipe": {"epochs": "8"}}])
def test_what_is_no_run_does_not_grow(found: Any) -> None:
    assert grow([found], make_identity(), "keep") == to_plain(make_identity())
