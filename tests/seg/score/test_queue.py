import random
from collections import Counter

import pytest

from seg.score.blame import Note
from seg.score.queue import (
    HOPELESS,
    LONGEST_GROUP,
    UNSEEN_DEATHS,
    ScoreQueue,
    Task,
    Watchdog,
    WorkersKeepDying,
    find_groups,
    find_overdue,
    given_up,
)


def alone(images: list[str]) -> list[list[str]]:
    return [[image] for image in images]


def take_all(queue: ScoreQueue, worker: str, depth: int = 100) -> list[Task]:
    tasks = []
    while task := queue.take(worker, depth):
        tasks.append(task)
    return tasks


def noted(*images: str, stage: str = "model", attempt: int = 1) -> dict[str, Note]:
    return dict.fromkeys(images, Note(stage, attempt))


def test_images_go_out_in_order_and_a_worker_holds_no_more_than_it_should() -> None:
    queue = ScoreQueue(alone(list("abcdef")))
    assert [task.image for task in take_all(queue, "w1", depth=2)] == ["a", "b"]
    assert [task.image for task in take_all(queue, "w2", depth=3)] == ["c", "d", "e"]
    queue.finish("w1", "a")
    assert queue.take("w1", 2) == Task("f")
    assert list(queue.held("w1")) == ["b", "f"]


def test_after_a_death_untouched_images_are_next_and_touched_ones_come_last_one_by_one() -> None:
    queue = ScoreQueue(alone(list("abcdefg")))
    take_all(queue, "w1", depth=4)
    take_all(queue, "w2", depth=1)
    assert queue.die("w1", noted("a", "c"), "signal 9") == []
    assert [task.image for task in take_all(queue, "w3", depth=10)] == ["b", "d", "f", "g"]
    queue.finish("w2", "e")
    assert queue.take("w2", 10) is None  # a suspect waits until nothing else is out
    for image in "bdfg":
        queue.finish("w3", image)
    assert queue.take("w3", 10) == Task("a", attempt=2, alone=True)
    assert queue.take("w3", 10) is queue.take("w2", 10) is None  # alone means alone
    queue.finish("w3", "a")
    assert queue.take("w2", 10) == Task("c", attempt=2, alone=True)
    queue.finish("w2", "c")
    assert queue.is_done


def test_a_second_death_quarantines_the_image_that_was_alone_and_says_where_and_how_often() -> None:
    queue = ScoreQueue(alone(["killer", "good"]))
    take_all(queue, "w1")
    queue.die("w1", noted("killer", "good"), "a crash")
    assert queue.take("w2", 5) == Task("killer", 2, alone=True)
    (lost,) = queue.die("w2", noted("killer", stage="decode", attempt=2), "a crash")
    assert (lost.image, lost.reason, lost.attempts) == ("killer", "killed_worker", 2)
    assert "stage decode" in lost.detail
    assert "a crash" in lost.detail
    assert queue.take("w3", 5) == Task("good", 2, alone=True)
    queue.finish("w3", "good")
    assert queue.is_done


def test_a_suspect_that_was_not_touched_is_not_to_blame() -> None:
    queue = ScoreQueue([], suspects=noted("a", "b", attempt=2))
    assert queue.take("w1", 5) == Task("a", 2, alone=True)
    assert queue.die("w1", {}, "its machine is gone") == []
    assert queue.take("w2", 5) == Task("a", 2, alone=True)


def test_suspects_are_tried_in_the_order_of_fewest_attempts() -> None:
    suspects = noted("often", attempt=4) | noted("a", "b", attempt=2) | noted("once", attempt=1)
    queue = ScoreQueue([], suspects=suspects)
    for image, attempt in (("once", 1), ("a", 2), ("b", 2), ("often", 4)):
        assert queue.take("w1", 5) == Task(image, attempt, alone=True)
        queue.finish("w1", image)


def test_a_timeout_blames_its_image_alone_and_gives_its_own_reason() -> None:
    queue = ScoreQueue(alone(["slow", "innocent"]))
    take_all(queue, "w1")
    assert queue.die("w1", noted("slow"), "slow took longer than 5 s", timed_out=["slow"]) == []
    assert queue.take("w2", 1) == Task("innocent")
    queue.finish("w2", "innocent")
    assert queue.take("w2", 1) == Task("slow", 2, alone=True)
    (lost,) = queue.die("w2", noted("slow"), "slow took longer than 5 s", timed_out=["slow"])
    assert lost.reason == "timeout"


def test_an_exception_is_tried_again_alone_in_a_process_that_lives_on() -> None:
    queue = ScoreQueue(alone(["odd", "good"]))
    take_all(queue, "w1")
    assert queue.fail("w1", "odd", Note("model", 1), "RuntimeError: no") == []
    queue.finish("w1", "good")
    assert queue.take("w1", 5) == Task("odd", 2, alone=True)
    (lost,) = queue.fail("w1", "odd", Note("model", 2), "RuntimeError: no")
    assert "RuntimeError: no" in lost.detail
    assert queue.is_done


def test_the_rehearsal_runs_one_by_one_through_one_worker_before_all_else() -> None:
    queue = ScoreQueue(alone(list("bc")), rehearsal=["a", "d"])
    assert queue.take("w1", 5) == Task("a", alone=True)
    assert queue.take("w2", 5) is None
    queue.finish("w1", "a")
    assert queue.take("w2", 5) is None
    assert queue.take("w1", 5) == Task("d", alone=True)
    assert queue.die("w1", {}, "gone") == []  # untouched: it is rehearsed by another one
    assert queue.take("w2", 5) == Task("d", alone=True)
    queue.finish("w2", "d")
    assert [task.image for task in take_all(queue, "w2")] == ["b", "c"]


def test_images_that_belong_together_stay_with_a_worker_until_it_dies() -> None:
    groups = list(find_groups([f"s{k // 20}/{k}" for k in range(40)], lambda a, b: a[:2] == b[:2]))
    assert [len(group) for group in groups] == [LONGEST_GROUP, 4, LONGEST_GROUP, 4]
    queue = ScoreQueue(groups)
    first = take_all(queue, "w1", depth=2)
    assert queue.take("w2", 1) == Task("s0/16")
    assert queue.take("w1", 3) == Task("s0/2")
    queue.die("w1", {}, "gone")
    assert [queue.take("w3", 9), queue.take("w3", 9)] == first
    queue.finish("w2", "s0/16")
    assert queue.take("w2", 1) == Task("s0/17")


def test_given_back_images_keep_their_attempt() -> None:
    queue = ScoreQueue(alone(list("abc")))
    take_all(queue, "w1")
    queue.give_back("w1", noted("a"))
    assert queue.suspects == {"a": Note("model", 1)}
    assert {task.image for task in take_all(queue, "w2")} == {"b", "c"}


def test_stopping_hands_out_nothing_and_waits_for_what_is_out() -> None:
    queue = ScoreQueue(alone(list("abc")), suspects=noted("s", attempt=2))
    queue.take("w1", 1)
    queue.stopped = True
    assert queue.take("w2", 1) is None
    assert not queue.is_done
    queue.finish("w1", "a")
    assert queue.is_done


def test_workers_that_die_before_any_image_end_the_run_with_the_cause() -> None:
    queue = ScoreQueue(alone(list("abc")), workers=2)
    with pytest.raises(WorkersKeepDying, match="before they began an image: no room for the model"):  # noqa: PT012
        for number in range(20):
            queue.die(f"w{number}", {}, "no room for the model")


def test_workers_that_die_with_whatever_image_end_the_run_but_a_folder_of_killers_does_not() -> None:
    images = [f"{k}" for k in range(100)]
    queue = ScoreQueue(alone(images))
    for number in range(HOPELESS):
        task = queue.take(f"w{number}", 1)
        assert task is not None
        queue.die(f"w{number}", noted(task.image), "CUDA is broken")
    task = queue.take("last", 1)
    assert task is not None
    with pytest.raises(WorkersKeepDying, match="no image was finished: CUDA is broken"):
        queue.die("last", noted(task.image), "CUDA is broken")
    killers = ScoreQueue([], suspects=noted(*images, attempt=2))
    aside = []
    while task := killers.take("w", 1):
        aside += killers.die("w", noted(task.image), "a crash")
    assert [one.image for one in aside] == images


def test_whatever_happens_every_image_gets_one_row() -> None:
    for seed in range(200):
        chance = random.Random(seed)
        images = [f"{k}" for k in range(chance.randrange(1, 40))]
        killers = set(chance.sample(images, k=min(len(images), chance.randrange(4))))
        rehearsal = images[: chance.randrange(4)]
        queue = ScoreQueue(
            find_groups(images[len(rehearsal) :], lambda a, b: int(a) // 3 == int(b) // 3),
            rehearsal=rehearsal,
            workers=3,
        )
        ended: Counter[str] = Counter()
        workers, started = ["w0", "w1", "w2"], 3
        while not queue.is_done:
            for worker in workers:
                take_all(queue, worker, depth=chance.randrange(1, 6))
            worker = chance.choice([worker for worker in workers if queue.held(worker)])
            held = list(queue.held(worker))
            touched = held[: chance.randrange(1, 4)]
            if killers & set(touched) or (chance.random() < 0.05 and len(held) > 1):
                aside = queue.die(worker, noted(*touched), "chance")
                ended.update(one.image for one in aside)
                assert {one.image for one in aside} <= killers
                workers[workers.index(worker)], started = f"w{started}", started + 1
            else:
                queue.finish(worker, held[0])
                ended[held[0]] += 1
        assert ended == Counter(images), seed


def test_what_commands_died_with_again_and_again_is_given_up() -> None:
    notes = noted("often", attempt=UNSEEN_DEATHS + 1) | noted("twice", attempt=UNSEEN_DEATHS)
    (lost,) = given_up(notes)
    assert (lost.image, lost.attempts) == ("often", UNSEEN_DEATHS)


@pytest.mark.parametrize(
    ("silent_s", "overdue"),
    [(0, ["old"]), (4, ["old"]), (6, ["old", "young"]), (11, ["old", "young", "new"])],
)
def test_images_grow_older_while_their_worker_says_nothing(silent_s: float, overdue: list[str]) -> None:
    notes = {"old": Note("model", 1, 11.0), "young": Note("read", 1, 5.0)}
    assert find_overdue(["old", "young", "new"], notes, silent_s, 10) == overdue


def test_the_watchdog_barks_once_for_each_time_that_nothing_moved() -> None:
    watchdog = Watchdog(10, now_s=0)
    looks = [(0, "a"), (9, "a"), (10, "b"), (19, "b"), (20, "b"), (21, "b"), (29, "b"), (30, "b")]
    assert [watchdog.look(sight, now) for now, sight in looks] == [0, 0, 0, 0, 1, 0, 0, 1]
