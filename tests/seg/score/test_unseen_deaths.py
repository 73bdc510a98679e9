"""Jobs that die unseen, again and again: who is set aside, by the decisions alone, without processes."""

import random
from collections import Counter
from dataclasses import dataclass, field
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow.fs import _MockFileSystem  # type: ignore[attr-defined]

from seg.score.blame import InFlight, take_over, write_suspects
from seg.score.queue import UNSEEN_DEATHS, ScoreQueue, find_groups, given_up
from seg.score.rehearsal import choose_rehearsal
from seg.storage import Place

AT_ONCE = 6
"""Images that a worker has begun at a time."""


def memory_place() -> Place:
    """A folder in memory."""
    filesystem = _MockFileSystem()
    filesystem.create_dir("inflight")
    return Place("memory", filesystem, "inflight")


@dataclass
class Night:
    """An archive that is scored by one command after another; each but the last is killed."""

    images: list[str]
    killers: frozenset[str] = frozenset()
    workers: int = 1
    place: Place = field(default_factory=memory_place)
    done: set[str] = field(default_factory=set)
    aside: dict[str, int] = field(default_factory=dict)
    """Attempts of each image that was set aside."""
    deaths_alone: Counter[str] = field(default_factory=Counter)
    """How often a job died with an image alone in work, counted by us."""

    def command(self, chance: random.Random, steps: float = float("inf")) -> bool:
        """One command, killed after so many beginnings and ends of images; whether it came to its end."""
        queue, suspects = self._begin(), {}
        noted: dict[str, InFlight] = {f"w{k}": InFlight(self.place, f"w{k}") for k in range(self.workers)}
        begun: dict[str, list[str]] = {worker: [] for worker in noted}
        while not queue.is_done:
            worker = chance.choice(list(noted))
            task = queue.take() if len(begun[worker]) < AT_ONCE else None
            in_work = [image for images in begun.values() for image in images]
            if task is not None:
                noted[worker].begin(task.image, task.attempt, alone=task.alone)
                begun[worker].append(task.image)
            elif begun[worker]:
                image = begun[worker][0] if not self.killers else chance.choice(begun[worker])
                if image in self.killers:
                    return self._die(in_work)
                begun[worker].remove(image)
                noted[worker].end(image)
                queue.finish(image)
                self.done.add(image)
            else:
                continue
            if (steps := steps - 1) <= 0:
                return self._die([image for images in begun.values() for image in images])
        write_suspects(self.place, suspects)
        return True

    def _begin(self) -> ScoreQueue:
        left = [image for image in self.images if image not in self.done | self.aside.keys()]
        suspects = {image: note for image, note in take_over(self.place).items() if image in left}
        for lost in given_up(suspects):
            self.aside[lost.image] = lost.attempts
            left.remove(lost.image)
            del suspects[lost.image]
        write_suspects(self.place, suspects)
        pending = [image for image in left if image not in suspects]
        rehearsal = choose_rehearsal(pending)
        rest = [image for image in pending if image not in rehearsal]
        groups = find_groups(rest, lambda one, other: False)
        return ScoreQueue(groups, rehearsal=rehearsal, suspects=suspects, workers=self.workers)

    def _die(self, in_work: list[str]) -> bool:
        if len(in_work) == 1:
            self.deaths_alone[in_work[0]] += 1
        return False


IMAGES = [f"{k:02}.png" for k in range(35)]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("within", [10, 20, 70])
@pytest.mark.parametrize("nights", [12, pytest.param(1000, marks=pytest.mark.long)])
def test_twenty_kills_at_random_moments_set_no_healthy_image_aside(
    workers: int, within: int, nights: int
) -> None:
    """`within`: steps of a command, of which it has two an image, before which it is killed.

    While three deaths with an image in flight set it aside, in company or not, 132 images were lost in 1,200
    such nights; now of 6,000 in which a job is killed 20 times a handful loses one, which was alone in work
    in five deaths.
    """
    lost = []
    for seed in range(nights):
        chance, night = random.Random(seed), Night(IMAGES, workers=workers)
        for _ in range(20):
            night.command(chance, chance.randrange(1, within))
        assert night.command(chance)
        assert night.done | night.aside.keys() == set(IMAGES), seed
        lost += night.aside
    assert len(lost) <= nights / 200


@given(
    seed=st.integers(0, 2**32),
    kills=st.lists(st.integers(1, 30), max_size=25),
    killers=st.sets(st.sampled_from(IMAGES[:9]), max_size=3),
    workers=st.integers(1, 3),
)
@settings(deadline=None, max_examples=100)
def test_whatever_is_killed_only_who_was_alone_in_five_deaths_is_set_aside_and_killers_always_are(
    seed: int, kills: list[int], killers: set[str], workers: int
) -> None:
    chance, night = random.Random(seed), Night(IMAGES[:9], frozenset(killers), workers)
    for steps in kills:
        night.command(chance, steps)
    commands = next(number for number in count(1) if night.command(chance))
    assert commands <= (UNSEEN_DEATHS + 1) * len(killers) + 1  # one in company, five alone; then the end
    assert night.done | night.aside.keys() == set(IMAGES[:9])
    assert night.aside.keys() >= killers
    assert set(night.aside.values()) <= {UNSEEN_DEATHS}
    assert all(night.deaths_alone[image] >= UNSEEN_DEATHS for image in night.aside)
