import errno
import json
import threading
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from seg.errors import DataWarning, RequestError
from seg.files import write_bytes
from seg.storage import Place, open_place
from seg.train.state import Journal, State, best_epochs, read_run, settle_best, write_state
from seg.train.store import CheckpointStore
from tests.cluster.journals import epoch_result
from tests.s3 import BUCKET, S3
from tests.small import read_tree

IDENTITY = {"recipe": {"name": "small", "batch": 4}, "classes": ("a", "b"), "seed": 0}
MIOUS = [0.2, 0.5, 0.1, 0.9]
"""Of four epochs: after the last, epochs 4 and 2 are the best two."""


def train(folder: Path, store: CheckpointStore, *, epochs: int = len(MIOUS), keep: int = 2) -> None:
    """What a training does around its epochs, each of which makes the same files whenever it is trained."""
    store.claim(IDENTITY)
    store.fetch(folder)
    history = (read_run(folder) or Journal()).history
    if history:
        settle_best(folder, best_epochs(history, keep))
        store.publish(folder, len(history))
    for epoch in range(len(history) + 1, epochs + 1):
        history = [*history, epoch_result(epoch, MIOUS[epoch - 1])]
        best, model = best_epochs(history, keep), f"model of epoch {epoch}".encode()
        if epoch == best[0]:
            write_bytes(folder / "best.safetensors", model)
        if epoch in best:
            write_bytes(folder / "best" / f"epoch-{epoch:04}.safetensors", model)
        journal = Journal(history, best_epoch=best[0])
        write_state(folder, State(journal, {"weight": torch.full((3,), float(epoch))}))
        settle_best(folder, best_epochs(history, keep))
        store.publish(folder, epoch)


class DyingPlace(Place):
    """A place on which a job dies: before its n-th change, or in the middle of its n-th download."""

    left = 10**9

    def upload(self, name: str, source: Path) -> None:
        self.die()
        super().upload(name, source)

    def download(self, name: str, target: Path) -> None:
        super().download(name, target)
        target.write_bytes(target.read_bytes()[:9])
        self.die()
        super().download(name, target)

    def remove(self, name: str) -> None:
        self.die()
        super().remove(name)

    def die(self) -> None:
        DyingPlace.left -= 1
        if DyingPlace.left < 0:
            raise KeyboardInterrupt


def dying(store: Path, left: int) -> CheckpointStore:
    DyingPlace.left = left
    place = open_place(str(store)).below("run")
    return CheckpointStore(DyingPlace(place.uri, place.filesystem, place.path))


UNHURT = 10**9


@pytest.mark.parametrize("machine", ["same", "new"])
def test_a_training_killed_between_any_two_steps_leaves_what_one_never_killed_does(
    machine: str, tmp_path: Path
) -> None:
    train(tmp_path / "never", dying(tmp_path / "store", UNHURT))
    wanted = (read_tree(tmp_path / "never"), read_tree(tmp_path / "store"))
    assert sorted(wanted[1]) == [
        "run/best/epoch-0002.safetensors",
        "run/best/epoch-0004.safetensors",
        "run/last/epoch-0003.safetensors",
        "run/last/epoch-0004.safetensors",
        "run/run.json",
    ]
    steps = UNHURT - DyingPlace.left
    assert steps == 10  # 4 states and 3 model files brought, 3 files removed
    for left in range(steps):
        store, first = tmp_path / f"store {left}", tmp_path / f"run {left}"
        with pytest.raises(KeyboardInterrupt):
            train(first, dying(store, left))
        folder = first if machine == "same" else tmp_path / f"new {left}"
        for more in (1, UNHURT):  # killed a second time, while it fetches
            try:
                train(folder, dying(store, more))
            except KeyboardInterrupt:
                assert more == 1
        found = read_tree(folder)
        if machine == "new":  # it need not hold the state before the one it fetched
            found = {"last/epoch-0003.safetensors": wanted[0]["last/epoch-0003.safetensors"]} | found
        assert (found, read_tree(store)) == wanted


def store_at(uri: str) -> CheckpointStore:
    return CheckpointStore(open_place(uri).below("run"))


def test_a_training_goes_on_from_s3_on_another_machine(tmp_path: Path, s3: S3) -> None:
    uri = f"s3://{BUCKET}/{tmp_path.name}"
    train(tmp_path / "one", store_at(uri), epochs=3)
    train(tmp_path / "other", store_at(uri))
    train(tmp_path / "never", store_at(str(tmp_path / "store")))
    assert read_tree(tmp_path / "other") == read_tree(tmp_path / "never")
    place = open_place(uri).below("run")
    names = {folder: place.names(folder) for folder in ("", "best", "last")}
    assert names == {
        "": ["run.json"],
        "best": ["epoch-0002.safetensors", "epoch-0004.safetensors"],
        "last": ["epoch-0003.safetensors", "epoch-0004.safetensors"],
    }
    assert place.read("best/epoch-0002.safetensors") == b"model of epoch 2"


def test_a_store_that_refuses_for_a_while_costs_nothing(
    tmp_path: Path, s3: S3, capsys: pytest.CaptureFixture[str]
) -> None:
    run, store = tmp_path / "run", store_at(f"s3://{BUCKET}/{tmp_path.name}")
    train(run, store, epochs=2)
    refused = threading.Event()

    class Watched(Place):
        def names(self, folder: str = "") -> list[str]:
            try:
                return super().names(folder)
            except OSError:
                refused.set()
                raise

    watched = CheckpointStore(Watched(store.place.uri, store.place.filesystem, store.place.path))
    with ExitStack() as refusal:
        refusal.enter_context(s3.refusing())
        threading.Thread(target=lambda: refused.wait(60) and refusal.close(), daemon=True).start()
        watched.publish(run, 2)
    assert refused.is_set()
    begin, end = capsys.readouterr().err.splitlines()
    assert begin.startswith(f"checkpoints to s3://{BUCKET}/{tmp_path.name}/run: ")
    assert "goes on after" in end


def test_what_the_store_lacks_of_a_finished_training_is_brought_by_the_same_command(tmp_path: Path) -> None:
    """Killed after its last epoch was saved and before the store had it."""
    store = tmp_path / "store"
    train(tmp_path / "run", store_at(str(store)))
    wanted = read_tree(store)
    (store / "run/last/epoch-0004.safetensors").unlink()
    (store / "run/best/epoch-0004.safetensors").unlink()
    (store / "run/best/epoch-0003.safetensors").write_bytes(b"model of epoch 3")
    train(tmp_path / "run", store_at(str(store)))
    assert read_tree(store) == wanted


def test_a_store_that_is_given_later_gets_the_best_model_file_too(tmp_path: Path) -> None:
    run, store = tmp_path / "run", tmp_path / "store"
    train(run, store_at(str(tmp_path / "another")), epochs=3, keep=1)
    for file in (run / "best").iterdir():
        file.unlink()
    train(run, store_at(str(store)), epochs=3, keep=1)
    assert read_tree(store)["run/best/epoch-0002.safetensors"] == b"model of epoch 2"


def test_a_store_keeps_as_many_states_as_it_is_told(tmp_path: Path) -> None:
    store = replace(store_at(str(tmp_path / "store")), keep_states=3)
    train(tmp_path / "run", store)
    names = [f"epoch-{epoch:04}.safetensors" for epoch in (2, 3, 4)]
    assert store.place.names("last") == names


def test_a_folder_that_is_as_far_as_the_store_is_left_alone(tmp_path: Path) -> None:
    store = store_at(str(tmp_path / "store"))
    assert not store.fetch(tmp_path / "run")
    train(tmp_path / "run", store)
    before = read_tree(tmp_path / "run")
    assert not store.fetch(tmp_path / "run")
    assert read_tree(tmp_path / "run") == before


@pytest.mark.parametrize("content", [b"", b"half", b"<html>503</html>"])
def test_a_damaged_state_in_the_store_is_named_and_the_one_before_is_taken(
    content: bytes, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    train(tmp_path / "run", store_at(str(store)))
    wanted = read_tree(tmp_path / "run"), read_tree(store)
    (store / "run/last/epoch-0004.safetensors").write_bytes(content)
    with pytest.warns(DataWarning, match=r"store/run/last/epoch-0004\.safetensors is damaged; its"):
        assert store_at(str(store)).fetch(tmp_path / "fetched")
    assert (read_run(tmp_path / "fetched") or Journal()).epochs_done == 3
    with pytest.warns(DataWarning, match="is damaged"):
        train(tmp_path / "new", store_at(str(store)))
    assert (read_tree(tmp_path / "new"), read_tree(store)) == wanted


def test_a_damaged_state_in_the_folder_is_fetched_whole(tmp_path: Path) -> None:
    train(tmp_path / "run", store_at(str(tmp_path / "store")))
    wanted = read_tree(tmp_path / "run")
    (tmp_path / "run/last/epoch-0004.safetensors").write_bytes(b"half")
    with pytest.warns(DataWarning, match=r"run/last/epoch-0004\.safetensors is damaged"):
        train(tmp_path / "run", store_at(str(tmp_path / "store")))
    assert read_tree(tmp_path / "run") == wanted


def test_a_folder_whose_states_are_all_damaged_is_mended_by_the_store(tmp_path: Path) -> None:
    run, store = tmp_path / "run", store_at(str(tmp_path / "store"))
    train(run, store)
    newest = run / "last" / "epoch-0004.safetensors"
    wanted = newest.read_bytes()
    for file in newest.parent.iterdir():
        file.write_bytes(b"half")
    with pytest.warns(DataWarning, match="is damaged"):
        assert store.fetch(run)
    assert newest.read_bytes() == wanted


def test_a_store_whose_states_are_all_damaged_is_not_trained_over(tmp_path: Path) -> None:
    store = tmp_path / "store"
    train(tmp_path / "run", store_at(str(store)))
    for file in (store / "run/last").iterdir():
        file.write_bytes(b"half")
    before = read_tree(store)
    with (
        pytest.warns(DataWarning, match="is damaged"),
        pytest.raises(RequestError, match=r"every state in .*store/run/last is damaged; put one back"),
    ):
        train(tmp_path / "new", store_at(str(store)))
    assert read_tree(store) == before


def test_an_epoch_that_is_trained_again_replaces_its_files_in_the_store(tmp_path: Path) -> None:
    """On a GPU it may differ in its last bits."""
    run, store = tmp_path / "run", store_at(str(tmp_path / "store"))
    train(run, store, epochs=2)
    for part in ("last", "best"):
        (run / part / "epoch-0002.safetensors").write_bytes(b"trained again")
    store.publish(run, 2)
    for part in ("last", "best"):
        assert store.place.read(f"{part}/epoch-0002.safetensors") == b"trained again"


@pytest.mark.parametrize(
    ("held", "words"),
    [
        (json.dumps(IDENTITY | {"seed": 1}), "holds another run, with seed 1 instead of 0"),
        ("{", "holds a run.json that is no JSON object"),
        ("[]", "holds a run.json that is no JSON object"),
    ],
)
def test_a_store_of_another_run_is_refused_and_left_alone(held: str, words: str, tmp_path: Path) -> None:
    store = store_at(str(tmp_path))
    store.place.write("run.json", held.encode())
    with pytest.raises(RequestError, match=rf"{tmp_path}/run {words}; give other `checkpoints`"):
        store.claim(IDENTITY)
    assert read_tree(tmp_path) == {"run/run.json": held.encode()}


def test_a_store_that_does_not_let_us_in_is_the_users_to_mend(tmp_path: Path, s3: S3) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(RequestError, match=r"/run cannot be used \(.*\); check the bucket or folder"):
        store_at(str(tmp_path)).claim(IDENTITY)
    with s3.refusing(), pytest.raises(RequestError, match=r"cannot be used \(.*ACCESS_DENIED.*\)"):
        store_at(f"s3://{BUCKET}/x").claim(IDENTITY)


def test_a_store_that_can_no_longer_be_written_is_found_out_before_the_training(tmp_path: Path) -> None:
    class ReadOnly(Place):
        def write(self, name: str, content: bytes) -> None:
            raise OSError(errno.EROFS, "Read-only file system", name)

    store = store_at(str(tmp_path))
    store.claim(IDENTITY)
    place = ReadOnly(store.place.uri, store.place.filesystem, store.place.path)
    with pytest.raises(RequestError, match="Read-only file system"):
        CheckpointStore(place).claim(IDENTITY)
