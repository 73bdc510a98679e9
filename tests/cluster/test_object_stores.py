"""What scoring keeps on an object store, and that it is what a local folder would hold."""

import hashlib
import threading
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from seg.data.images import read_from, split_page
from seg.data.listing import list_images
from seg.data.pairing import Labels, find_labels
from seg.errors import DataWarning, RequestError
from seg.ledger.changes import Changes, find_changed_masks, find_changes, find_other_content
from seg.ledger.ledger import Ledger
from seg.locks import folder_lock
from seg.locks.claim import claim_folder
from seg.locks.folder_lock import FolderLock, LostLock, StoreLock, check_owner
from seg.storage import Place, as_place
from tests.outcomes import make_aside, make_object, make_scored, totals_of
from tests.s3 import BUCKET, S3


@pytest.fixture
def store(s3: S3, tmp_path: Path) -> Place:
    """A folder of the store that no other test uses."""
    return as_place(f"s3://{BUCKET}/{tmp_path.name}")


@pytest.fixture(autouse=True)
def settled_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_lock, "SETTLE_S", 0.0)


def upload(folder: Path, store: Place) -> Place:
    for file in folder.rglob("*"):
        if file.is_file():
            store.upload(file.relative_to(folder).as_posix(), file)
    return store


def write_tree(folder: Path) -> Path:
    pages = [Image.fromarray(np.full((2, 3), page, np.uint8)) for page in range(3)]
    for name in ("s10/1.png", "s2/10.PNG", "s2/9.png", "top.npy", "s2/x#1.bmp", "notes.txt", "s2/README"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    for name in (".hidden.png", ".cache/a.png", "s2/.cache/b/a.png", "s2/.b.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"hidden")
    pages[0].save(folder / "s2/pages.tif", save_all=True, append_images=pages[1:])
    pages[0].save(folder / "s10/one.tiff")
    return folder


@pytest.mark.parametrize("patterns", [{}, {"include": ("s2/*",)}, {"exclude": ("*.png", "s10/*")}])
def test_an_archive_on_a_store_is_listed_as_the_same_folder_is(
    patterns: dict[str, tuple[str, ...]], tmp_path: Path, store: Place
) -> None:
    local = list_images(write_tree(tmp_path / "archive"), **patterns)
    remote = list_images(upload(tmp_path / "archive", store), **patterns)
    assert remote.images == local.images
    assert "s2/pages.tif#2" in local.images
    assert remote.ignored == local.ignored
    assert remote.bytes.tolist() == local.bytes.tolist()
    stats = [store.stat(split_page(name)[0]) for name in remote.images]
    assert remote.mtime_ns.tolist() == [found and found.mtime_ns for found in stats]


def test_labels_on_a_store_are_paired_as_in_a_folder(tmp_path: Path, store: Place) -> None:
    for name in ("s/a.bmp.png", "s/b.json", "t.tif#1.png", "more.png"):
        (tmp_path / "labels" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "labels" / name).write_bytes(name.encode())
    images = ["s/a.bmp", "s/b.png", "s/c.png", "t.tif#0", "t.tif#1"]
    local = find_labels(images, tmp_path / "labels")
    remote = find_labels(images, upload(tmp_path / "labels", store))
    assert local.names == {"s/a.bmp": "s/a.bmp.png", "s/b.png": "s/b.json", "t.tif#1": "t.tif#1.png"}
    assert remote.names == local.names
    assert remote.bytes.tolist() == local.bytes.tolist() == [11, 8, -1, -1, 11]
    assert (remote.mtime_ns >= 0).tolist() == (remote.bytes >= 0).tolist()
    assert remote.unused == local.unused == 1


@pytest.mark.parametrize("read", [list_images, lambda place: find_labels([], place)])
def test_what_is_not_on_a_store_is_no_folder(read: object, store: Place) -> None:
    assert callable(read)
    with pytest.raises(RequestError, match=rf"folder|archive s3://{BUCKET}/.* is no folder"):
        read(store)
    with pytest.raises(RequestError, match=r"is no folder|cannot be used"):
        read(as_place("s3://none/at-all"))


def test_a_ledger_on_a_store_does_what_a_local_one_does(store: Place) -> None:
    ledger = Ledger(store)
    for images in ("abc", "de"):
        ledger.add([make_scored(image, [1, 2, 3, 4], objects=(make_object(image, 0),)) for image in images])
        ledger.add([make_aside(f"{image} aside") for image in images])
        ledger.commit()
    ledger.forget(["b"])
    ledger.forget_quarantined(["a aside", "d aside", "e aside"])
    reader = Ledger(store)
    assert reader.finished_images() == set("acde")
    assert reader.quarantined_images() == {"b aside", "c aside"}
    assert totals_of(reader, 2).confusion.tolist() == [[4, 8], [12, 16]]
    assert sorted(name for rows in reader.objects() for name in rows["image"].to_pylist()) == list("acde")
    torn, _ = store.names("ledger")
    store.write(f"ledger/{torn}", b"PAR1 torn")
    with pytest.warns(DataWarning, match=rf"{store}/ledger/{torn} is damaged"):
        reader.recover()
    assert store.names("ledger")[0] == f".{torn}.damaged"
    assert reader.finished_images() < set("acde")
    assert len(store.names("objects")) == 1


def test_a_store_that_refuses_is_not_taken_for_a_damaged_part(store: Place, s3: S3) -> None:
    ledger = Ledger(store)
    ledger.add([make_scored("a")])
    ledger.commit()
    with s3.refusing(), pytest.raises(OSError, match=r"ACCESS|Access|denied"):
        Ledger(store).finished_images()


def test_an_image_on_a_store_that_was_written_anew_has_changed(store: Place) -> None:
    for name in ("a.png", "b.png", "c.png"):
        store.write(name, b"one")
    ledger = Ledger(store.below("scores"))
    listing = list_images(store, exclude=("scores/*",))
    for name in listing.images:
        file = read_from(store, name)
        row = {"bytes": len(file.data), "mtime_ns": file.mtime_ns, "sha256": file.sha256}
        ledger.add([make_scored(name, **row)])
    ledger.commit()
    assert find_changes(listing, Labels.none(3), ledger).changed == []
    store.write("b.png", b"longer")
    listing = list_images(store, exclude=("scores/*",))
    assert find_changes(listing, Labels.none(3), ledger).changed == ["b.png"]
    assert find_other_content(store, None, ledger).changed == ["b.png"]


def test_masks_on_a_store_are_missed_and_compared_as_in_a_folder(store: Place) -> None:
    ledger, masks = Ledger(store.below("scores")), store.below("scores/masks")
    for name in ("a.png", "s/b.png", "s/c.png", "d.png"):
        store.write(name, b"image")
        masks.write(f"{name}.png", b"mask")
        stats = {"mask_bytes": 4, "mask_sha256": hashlib.sha256(b"mask").hexdigest()}
        ledger.add([make_scored(name, sha256=hashlib.sha256(b"image").hexdigest(), **stats)])
    ledger.commit()
    assert find_changed_masks(masks, ledger) == Changes()
    masks.remove("s/b.png.png")
    masks.write("s/c.png.png", b"longer")
    masks.write("d.png.png", b"MASK")
    assert find_changed_masks(masks, ledger) == Changes(masks=["s/c.png"], unmasked=["s/b.png"])
    assert find_other_content(store, None, ledger, masks) == Changes(masks=["d.png", "s/c.png"])


def test_a_folder_of_a_store_is_claimed_once(store: Place) -> None:
    claim_folder(store, {"model": "a", "crop": (1, 2)})
    claim_folder(store, {"model": "a", "crop": (1, 2)})
    with pytest.raises(RequestError, match=rf"`out={store}` holds another run, with model a instead of b"):
        claim_folder(store, {"model": "b", "crop": (1, 2)})
    store.remove("run.json")
    store.write("deeper/a.png", b"")
    with pytest.raises(RequestError, match=rf"`out={store}` holds other files and no run.json"):
        claim_folder(store, {"model": "a"})


def write_lock(store: Place, token: str, *, kind: str = "lock") -> None:
    """The lock of a job on a machine that we cannot look at."""
    holder = {"token": token, "what": "scoring", "host": "far", "pid": 77, "since": "yesterday"}
    store.write_json(f"{kind}-{token}.json", holder | {"pid_space": "elsewhere", "started": "1"})


def test_a_lock_on_a_store_refuses_the_second_job_and_goes_with_its_block(store: Place) -> None:
    with FolderLock(store, what="scoring") as lock:
        assert store.names() == [f"lock-{lock.token}.json"]
        lock.check()
        with pytest.raises(RequestError, match=rf"{store} is in use by scoring on .*; wait for it, stop it"):
            FolderLock(store, what="scoring").__enter__()
        assert store.names() == [f"lock-{lock.token}.json"]
    assert store.names() == []
    with pytest.raises(FileNotFoundError):
        check_owner(store, lock.token)


@pytest.mark.parametrize("kind", ["lock", "ask"])
def test_a_living_job_elsewhere_holds_a_store_and_a_silent_one_does_not(
    kind: str, store: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lock(store, "3-00", kind=kind)
    with pytest.raises(RequestError, match=r"in use by scoring on far, process 77.* try again in \d+ s"):
        FolderLock(store, what="scoring").__enter__()
    assert store.names() == [f"{kind}-3-00.json"]
    monkeypatch.setattr("seg.locks.holder.SILENT_S", -5.0)
    with FolderLock(store, what="scoring") as lock:
        assert store.names() == [f"lock-{lock.token}.json"]
        assert lock.token.startswith("4-")
    assert "taken over from scoring on far" in capsys.readouterr().err


def test_a_job_that_asks_after_us_gives_way_and_is_not_removed(
    store: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle = SimpleNamespace(sleep=lambda _: write_lock(store, f"1-{'f' * 20}", kind="ask"))
    monkeypatch.setattr(folder_lock, "time", settle)
    with FolderLock(store, what="scoring") as lock:
        assert store.names() == [f"ask-1-{'f' * 20}.json", f"lock-{lock.token}.json"]
        lock.check()


def test_a_job_whose_store_was_taken_over_finds_out(store: Place) -> None:
    with FolderLock(store, what="scoring") as lock:
        write_lock(store, "2-00")
        with pytest.raises(LostLock, match=rf"another job has taken {store} over"):
            lock.check()
        store.remove(f"lock-{lock.token}.json")
        StoreLock(store).beat(lock.token)  # a sign of life does not bring it back
        assert store.names() == ["lock-2-00.json"]
        with pytest.raises(LostLock):
            check_owner(store, lock.token)


def test_of_jobs_that_ask_for_a_store_in_the_same_moment_at_most_one_gets_it(
    store: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = 3
    asked, ended = threading.Barrier(jobs, timeout=60), threading.Barrier(jobs, timeout=60)
    held: list[str] = []
    settle = SimpleNamespace(sleep=lambda _: asked.wait())  # all have asked before one looks
    monkeypatch.setattr(folder_lock, "time", settle)

    def ask() -> None:
        with suppress(RequestError), FolderLock(store, what="scoring") as lock:
            held.append(lock.token)
            ended.wait()
            return
        ended.wait()

    threads = [threading.Thread(target=ask) for _ in range(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(held) == 1
