import json
import math
import random
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from seg.errors import DataWarning, RequestError
from seg.train.state import (
    DamagedState,
    Journal,
    State,
    best_epochs,
    epoch_name,
    find_epochs,
    newest_state,
    read_journal,
    read_run,
    read_state,
    settle_best,
    write_state,
)
from tests.cluster.journals import epoch_result

Damage = Callable[[bytes], bytes]


def state_after(epoch: int) -> State:
    history = [epoch_result(number, number / 10) for number in range(1, epoch + 1)]
    seeded = torch.Generator().manual_seed(epoch)
    tensors = {
        "model.weight": torch.randn(3, 5, generator=seeded),
        "optimizer.0.step": torch.tensor(float(epoch)),
        "model.half": torch.randn(7, generator=seeded).bfloat16(),
        "model.none": torch.zeros(0, dtype=torch.int64),
    }
    return State(Journal(history, best_epoch=epoch), tensors)


def run_of(folder: Path, epochs: int) -> list[Path]:
    """A run after so many epochs; its state files, the newest first."""
    for epoch in range(1, epochs + 1):
        write_state(folder, state_after(epoch))
    return sorted((folder / "last").iterdir(), reverse=True)


def test_a_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    run_of(tmp_path, 1)
    state, written = newest_state(tmp_path), state_after(1)
    assert state is not None
    assert state.epoch == 1
    assert state.journal == written.journal == read_run(tmp_path)
    assert state.tensors.keys() == written.tensors.keys()
    for name, tensor in written.tensors.items():
        assert state.tensors[name].dtype == tensor.dtype
        assert torch.equal(state.tensors[name], tensor)


def test_nan_in_the_journal_stays_nan(tmp_path: Path) -> None:
    write_state(tmp_path, State(Journal([epoch_result(1, math.nan)]), {}))
    journal = read_run(tmp_path)
    assert journal is not None
    assert math.isnan(journal.history[0].miou)


def test_the_newest_two_states_are_kept_and_nothing_else_is_touched(tmp_path: Path) -> None:
    (tmp_path / "last").mkdir()
    (tmp_path / "last" / "progress.json").write_text("{}")
    names = [path.name for path in run_of(tmp_path, 5)]
    assert names == ["progress.json", "epoch-0005.safetensors", "epoch-0004.safetensors"]
    for epoch in (6, 7):
        write_state(tmp_path, state_after(epoch), keep=3)
    assert find_epochs(path.name for path in (tmp_path / "last").iterdir()) == [7, 6, 5]


def test_a_run_without_states_has_none(tmp_path: Path) -> None:
    assert newest_state(tmp_path) is None
    (tmp_path / "last").mkdir()
    (tmp_path / "last" / ".epoch-0001.safetensors.12345678.part").write_bytes(b"half")
    assert newest_state(tmp_path) is None
    assert read_run(tmp_path) is None


def test_every_cut_of_a_state_is_found_with_and_without_reading_tensors(tmp_path: Path) -> None:
    (path,) = run_of(tmp_path, 1)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        for read in (read_state, read_journal):
            with pytest.raises(DamagedState, match=r"state .*epoch-0001\.safetensors is damaged"):
                read(path)


def test_every_changed_bit_of_a_state_is_found(tmp_path: Path) -> None:
    (path,) = run_of(tmp_path, 1)
    whole = path.read_bytes()
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        with pytest.raises(DamagedState, match="damaged"):
            read_state(path)


def test_every_changed_bit_of_a_journal_is_found_or_changes_nothing(tmp_path: Path) -> None:
    (path,) = run_of(tmp_path, 1)
    whole, journal = path.read_bytes(), read_journal(path)
    for place in range(int.from_bytes(whole[:8], "little") + 8):
        changed = bytearray(whole)
        changed[place] ^= 1 << (place + 3) % 8
        path.write_bytes(changed)
        with suppress(DamagedState):
            assert read_journal(path) == journal


def test_a_journal_from_before_it_had_a_hash_is_checked_with_all_that_the_state_holds(tmp_path: Path) -> None:
    (path,) = run_of(tmp_path, 1)
    with safe_open(path, framework="pt") as file:
        values = json.loads(file.metadata()["fringe-state"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
    journal = read_journal(path)
    del values["journal_sha256"]
    save_file(tensors, path, {"fringe-state": json.dumps(values)})
    assert read_journal(path) == journal
    values["history"][0]["epoch"] += 1
    save_file(tensors, path, {"fringe-state": json.dumps(values)})
    with pytest.raises(DamagedState, match="does not fit its sha256"):
        read_journal(path)


DAMAGES: dict[str, Damage] = {
    "empty": lambda _: b"",
    "cut inside its length": lambda whole: whole[:5],
    "cut inside its header": lambda whole: whole[: int.from_bytes(whole[:8], "little") // 2],
    "cut after its header": lambda whole: whole[: 8 + int.from_bytes(whole[:8], "little")],
    "cut inside a tensor": lambda whole: whole[:-1],
    "longer": lambda whole: whole + b"\0",
    "zeros": lambda whole: bytes(len(whole)),
    "tensors of zeros": lambda whole: whole[:-20] + bytes(20),
    "noise": lambda whole: random.Random(0).randbytes(len(whole)),
    "text": lambda _: b"<html>503 Service Unavailable</html>",
    "safetensors of somebody else": lambda _: b"\x02\0\0\0\0\0\0\0{}",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_run_goes_on_from_the_epoch_before_a_damaged_state(damage: Damage, tmp_path: Path) -> None:
    newest = run_of(tmp_path, 3)[0]
    newest.write_bytes(damage(newest.read_bytes()))
    with pytest.warns(DataWarning, match=r"epoch-0003\.safetensors is damaged \(.+\); its epoch is trained"):
        state = newest_state(tmp_path)
    assert state is not None
    assert state.journal == state_after(2).journal
    write_state(tmp_path, state_after(3))  # trained again
    again = newest_state(tmp_path)
    assert again is not None
    assert again.epoch == 3


def test_a_damaged_first_epoch_is_trained_again(tmp_path: Path) -> None:
    (first,) = run_of(tmp_path, 1)
    first.write_bytes(b"")
    with pytest.warns(DataWarning, match="damaged"):
        assert newest_state(tmp_path) is None


def test_a_run_whose_states_are_all_damaged_is_not_begun_anew(tmp_path: Path) -> None:
    for path in run_of(tmp_path, 3):
        path.write_bytes(b"")
    with (
        pytest.warns(DataWarning, match="damaged"),
        pytest.raises(RequestError, match=r"every state in .*last is damaged; put one back .*or remove"),
    ):
        newest_state(tmp_path)


def test_the_same_state_is_the_same_file_byte_for_byte(tmp_path: Path) -> None:
    files = {run_of(tmp_path / str(copy), 2)[0].read_bytes() for copy in range(5)}
    assert len(files) == 1


@pytest.mark.parametrize("read", [read_state, read_journal])
def test_a_state_without_a_digest_is_damaged(read: Callable[[Path], object], tmp_path: Path) -> None:
    (path,) = run_of(tmp_path, 1)
    path.write_bytes(path.read_bytes().replace(b"sha256", b"sha257"))
    with pytest.raises(DamagedState, match="has no metadata 'fringe-state' with a sha256"):
        read(path)


def test_epochs_are_found_by_their_files_names_alone() -> None:
    names = ["epoch-0002.safetensors", "epoch-12345.safetensors", "epoch-0010.safetensors", "progress.json"]
    odd = [
        "epoch-3.safetensors",
        "epoch-0004.safetensors.part",
        ".epoch-0005.safetensors",
        "x-epoch-0006.safetensors",
    ]
    assert find_epochs(names + odd) == [12345, 10, 2]


@given(
    st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, math.nan]), max_size=8),
    st.integers(1, 4),
)
def test_the_best_epochs_are_those_that_the_fewest_are_better_than(mious: list[float], keep: int) -> None:
    history = [epoch_result(epoch, miou) for epoch, miou in enumerate(mious, 1)]
    judged = {epoch: miou for epoch, miou in enumerate(mious, 1) if miou >= 0}

    def better(epoch: int) -> int:
        mine = judged[epoch]
        return sum(miou > mine or (miou == mine and other < epoch) for other, miou in judged.items())

    best = sorted((epoch for epoch in judged if better(epoch) < keep), key=better)
    assert best_epochs(history, keep) == best
    losses = [epoch_result(epoch, math.nan, validation_loss=-miou) for epoch, miou in enumerate(mious, 1)]
    assert best_epochs(losses, keep, "loss") == best  # a lower loss is the better one


def test_the_model_files_of_the_best_epochs_stay_however_often_it_is_settled(tmp_path: Path) -> None:
    best, mious, kept = tmp_path / "best", [0.2, 0.5, 0.5, 0.1, 0.9, 0.4], []
    best.mkdir()
    (best / "notes.txt").write_text("mine")
    history = []
    for epoch, miou in enumerate(mious, 1):
        history.append(epoch_result(epoch, miou))
        (best / f"epoch-{epoch:04}.safetensors").write_bytes(b"model")
        settle_best(tmp_path, best_epochs(history, 2))
        settle_best(tmp_path, best_epochs(history, 2))
        kept.append(sorted(find_epochs(path.name for path in best.iterdir())))
    assert kept == [[1], [1, 2], [2, 3], [2, 3], [2, 5], [2, 5]]
    assert (best / "notes.txt").is_file()


def test_the_best_model_file_joins_those_that_are_kept_from_now_on(tmp_path: Path) -> None:
    (tmp_path / "best.safetensors").write_bytes(b"of epoch 2")
    history = [epoch_result(epoch, miou) for epoch, miou in enumerate((0.3, 0.5, 0.4), 1)]
    settle_best(tmp_path, best_epochs(history, 2))
    copy = tmp_path / "best" / "epoch-0002.safetensors"
    assert copy.read_bytes() == b"of epoch 2"
    (tmp_path / "best.safetensors").write_bytes(b"of an epoch that is trained again")
    settle_best(tmp_path, best_epochs(history, 2))
    assert copy.read_bytes() == b"of epoch 2"
    assert list(copy.parent.iterdir()) == [copy]


@pytest.mark.parametrize(("epochs", "cheap"), [([1], True), ([2, 1], True), ([3, 2, 1], False), ([2], False)])
def test_states_whose_loss_costs_more_than_two_epochs_are_not_given_up(
    epochs: list[int], cheap: bool, tmp_path: Path
) -> None:
    for epoch in sorted(epochs):
        write_state(tmp_path, state_after(epoch), keep=9)
    for epoch in epochs:
        (tmp_path / "last" / epoch_name(epoch)).write_bytes(b"")
    refused = pytest.raises(RequestError, match=r"every state in .*last is damaged")
    with pytest.warns(DataWarning, match="damaged"), nullcontext() if cheap else refused:
        assert newest_state(tmp_path) is None
