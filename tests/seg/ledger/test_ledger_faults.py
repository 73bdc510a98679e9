"""What is left of a ledger when its process is killed between two changes on disk."""

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from seg.ledger.ledger import Ledger
from seg.storage import Place
from tests.outcomes import make_aside, make_object, make_scored


class Killed(Exception):
    """In place of SIGKILL: raised before a change, so that what was changed before it is what stays."""


def killing_at(change: int, patch: pytest.MonkeyPatch) -> list[str]:
    """Let all changes of files but the first `change` fail; the list gains the names that are changed."""
    done: list[str] = []

    def guard(real: Callable[..., None]) -> Callable[..., None]:
        def changing(place: Place, name: str, *content: bytes, **kwargs: Any) -> None:
            if len(done) == change:
                raise Killed
            done.append(name)
            real(place, name, *content, **kwargs)

        return changing

    for method in ("write", "remove"):
        patch.setattr(Place, method, guard(getattr(Place, method)))
    return done


@pytest.fixture(autouse=True, scope="module")
def unflushed() -> Iterator[None]:
    """Without waiting for a disk: nothing here switches the machine off."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


def images_of(ledger: Ledger) -> Counter[str]:
    tables = [*ledger.rows(["image"]), *ledger.quarantine_rows(["image"])]
    return Counter(name for rows in tables for name in rows["image"].to_pylist())


def objects_of(ledger: Ledger) -> Counter[tuple[str, int]]:
    rows = [row for table in ledger.objects(["image", "x"]) for row in table.to_pylist()]
    return Counter((row["image"], row["x"]) for row in rows)


def object_places(images: set[str]) -> Counter[tuple[str, int]]:
    """Those that `fill` gives the images of a ledger."""
    return Counter((image, x) for image in images for x in range(len(image)))


def fill(ledger: Ledger, parts: list[set[str]]) -> None:
    """Put images into the ledger, objects and all; those whose name is long go to the quarantine."""
    for images in parts:
        for image in sorted(images):
            objects = tuple(make_object(image, x) for x in range(len(image)))
            sound = make_scored(image, [1, 0, 0, 1], objects=objects)
            ledger.add([make_aside(image) if len(image) > 3 else sound])
        ledger.commit()


def check(folder: Path) -> Ledger:
    """A process that comes after the killed one finds each image once or not at all, with its objects."""
    ledger = Ledger(folder)
    for recovered in (False, True):
        if recovered:
            ledger.recover()
        assert set(images_of(ledger).values()) <= {1}
        assert not ledger.finished_images() & ledger.quarantined_images()
        assert objects_of(ledger) == object_places(ledger.finished_images())
    files = {path.relative_to(folder).parts for path in folder.rglob("*") if path.is_file()}
    named = {kind: {name.rpartition("-")[0] for its, name in files if its == kind} for kind, _ in files}
    assert named.get("objects", set()) <= named.get("ledger", set())
    return ledger


NAMES = st.text("ab", max_size=5)
PARTS = st.lists(NAMES, unique=True, max_size=9).map(lambda names: [set(names[k::3]) for k in range(3)])


@settings(max_examples=6)
@given(PARTS)
def test_a_commit_killed_between_any_two_changes_leaves_each_image_at_most_once(
    parts: list[set[str]],
) -> None:
    for change in count():
        with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
            changed = killing_at(change, patch)
            with suppress(Killed):
                fill(Ledger(Path(folder)), parts)
            patch.undo()
            ledger = check(Path(folder))
            wanted = set[str]().union(*parts)
            fill(ledger, [wanted - set(images_of(ledger))])  # the same command again
            assert set(images_of(check(Path(folder)))) == wanted
            if len(changed) < change:
                break


@settings(max_examples=6)
@given(PARTS, st.sets(NAMES))
@example([{"", "aa"}, {"a"}, {"b"}], {""})  # objects of the next revision hid those that counted
def test_forgetting_killed_between_any_two_changes_leaves_each_image_at_most_once(
    parts: list[set[str]], forgotten: set[str]
) -> None:
    wanted = set[str]().union(*parts)
    for change in count():
        with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
            fill(Ledger(Path(folder)), parts)
            changed = killing_at(change, patch)
            with suppress(Killed):
                Ledger(Path(folder)).forget(forgotten)
                Ledger(Path(folder)).forget_quarantined(forgotten)
            patch.undo()
            ledger = check(Path(folder))
            assert set(images_of(ledger)) >= wanted - forgotten  # nothing else is lost
            ledger.forget(forgotten)
            ledger.forget_quarantined(forgotten)
            assert set(images_of(check(Path(folder)))) == wanted - forgotten
            fill(ledger, [wanted & forgotten])
            assert set(images_of(check(Path(folder)))) == wanted
            if len(changed) < change:
                break
