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
    WorkersKeepDying,
    find_groups,
    given_up,
)


def alone(images: list[str]) -> list[list[str]]:
    return [[image] for image in images]


def take_all(queue: ScoreQueue, most: int = 100) -> list[Task]:
    tasks = []
    while len(tasks) < most and (task := queue.take()):
        tasks.append(task)
    return tasks


def noted(*images: str, stage: str = "model", attempt: int = 1) -> dict[str, Note]:
    return dict.fromkeys(images, Note(stage, attempt))


def test_images_go_out_in_order() -> None:
    queue = ScoreQueue(alone(list("abcd")))
    assert [task.image for task in take_all(queue, most=2)] == ["a", "b"]
    queue.finish("a")
    assert queue.take() == Task("c")
    assert list(queue.held()) == ["b", "c"]


def test_touched_images_come_last_one_by_one_and_those_with_them_go_on() -> None:
    queue = ScoreQueue(alone(list("abcd")))
    take_all(queue, most=3)
    assert queue.die(noted("a", "c"), "signal 9") == []
    assert [task.image for task in take_all(queue)] == ["d"]
    queue.finish("b")
    assert queue.take() is None  # a suspect waits until nothing else is out
    queue.finish("d")
    assert queue.take() == Task("a", attempt=2, alone=True)
    assert queue.take() is None  # alone means alone
    queue.finish("a")
    assert queue.take() == Task("c", attempt=2, alone=True)
    queue.finish("c")
    assert queue.is_done


def test_a_second_death_quarantines_the_image_that_was_alone_and_says_where_and_how_often() -> None:
    queue = ScoreQueue(alone(["killer", "good"]))
    take_all(queue)
    queue.die(noted("killer", "good"), "a crash")
    assert queue.take() == Task("killer", 2, alone=True)
    (lost,) = queue.die(noted("killer", stage="decode", attempt=2), "a crash")
    assert (lost.image, lost.reason, lost.attempts) == ("killer", "killed_worker", 2)
    assert "stage decode" in lost.detail
    assert "a crash" in lost.detail
    assert queue.take() == Task("good", 2, alone=True)
    queue.finish("good")
    assert queue.is_done


def test_a_suspect_that_was_not_touched_is_not_to_blame() -> None:
    queue = ScoreQueue([], suspects=noted("a", "b", attempt=2))
    assert queue.take() == Task("a", 2, alone=True)
    queue.give_back({})  # its machine is gone, say
    assert queue.take() == Task("b", 2, alone=True)
    queue.finish("b")
    assert queue.take() == Task("a", 2, alone=True)


def test_suspects_are_tried_in_the_order_of_fewest_attempts() -> None:
    suspects = noted("often", attempt=4) | noted("a", "b", attempt=2) | noted("once", attempt=1)
    queue = ScoreQueue([], suspects=suspects)
    for image, attempt in (("once", 1), ("a", 2), ("b", 2), ("often", 4)):
        assert queue.take() == Task(image, attempt, alone=True)
        queue.finish(image)


def test_a_timeout_gives_its_own_reason() -> None:
    queue = ScoreQueue(alone(["slow", "innocent"]))
    take_all(queue)
    late = Note("model", 1, cause="slow took longer than 5 s", timed_out=True)
    assert queue.die({"slow": late}, "") == []
    queue.finish("innocent")
    assert queue.take() == Task("slow", 2, alone=True)
    (lost,) = queue.die({"slow": late}, "")
    assert lost.reason == "timeout"
    assert "slow took longer than 5 s" in lost.detail


def test_an_exception_is_tried_again_alone_in_a_process_that_lives_on() -> None:
    queue = ScoreQueue(alone(["odd", "good"]))
    take_all(queue)
    assert queue.fail("odd", Note("model", 1, cause="RuntimeError: no")) == []
    queue.finish("good")
    assert queue.take() == Task("odd", 2, alone=True)
    (lost,) = queue.fail("odd", Note("model", 2, cause="RuntimeError: no"))
    assert "RuntimeError: no" in lost.detail
    assert queue.is_done


def test_the_rehearsal_runs_one_by_one_before_all_else() -> None:
    queue = ScoreQueue(alone(list("bc")), rehearsal=["a", "d"])
    assert queue.take() == Task("a", alone=True)
    assert queue.take() is None
    queue.finish("a")
    assert queue.take() == Task("d", alone=True)
    assert queue.take() is None
    queue.finish("d")
    assert [task.image for task in take_all(queue)] == ["b", "c"]


def test_all_in_company_go_out_at_once_the_rehearsal_first_and_groups_whole() -> None:
    names = [f"s{k // 20}/{k}" for k in range(40)]
    groups = list(find_groups(names, lambda a, b: a[:2] == b[:2]))
    assert [len(group) for group in groups] == [LONGEST_GROUP, 4, LONGEST_GROUP, 4]
    queue = ScoreQueue(iter(groups), rehearsal=["a", "d"], suspects=noted("s", attempt=2))
    assert list(queue.take_company()) == [["a"], ["d"], *groups]
    assert not queue.has_company
    assert len(queue.held()) == 42
    for image in ["a", "d", *names]:
        queue.finish(image)
    assert queue.take_suspect() == Task("s", 2, alone=True)
    assert queue.take_suspect() is None


def test_what_died_in_company_at_its_first_try_is_a_suspect_at_its_second() -> None:
    queue = ScoreQueue(alone(list("ab")))
    list(queue.take_company())
    assert queue.die(noted("a"), "") == []
    assert queue.suspects == {"a": Note("model", 2)}
    queue.put_back("b")
    assert list(queue.take_company()) == [["b"]]


def test_given_back_images_keep_their_attempt() -> None:
    queue = ScoreQueue(alone(list("abc")))
    take_all(queue)
    queue.give_back(noted("a"))
    assert queue.suspects == {"a": Note("model", 1)}
    assert {task.image for task in take_all(queue)} == {"b", "c"}


def test_a_suspect_that_was_not_begun_stays_one() -> None:
    queue = ScoreQueue([], suspects=noted("a", attempt=3))
    assert queue.take_suspect() == Task("a", 3, alone=True)
    queue.put_back("a")
    assert queue.suspects == {"a": Note("read", 3)}


def test_stopping_hands_out_nothing_and_waits_for_what_is_out() -> None:
    queue = ScoreQueue(alone(list("abc")), suspects=noted("s", attempt=2))
    take_all(queue, most=1)
    queue.stopped = True
    assert queue.take() is queue.take_suspect() is None
    assert list(queue.take_company()) == []
    assert not queue.is_done
    queue.finish("a")
    assert queue.is_done
    assert not queue.is_complete


def test_workers_that_die_before_any_image_end_the_run_with_the_cause() -> None:
    queue = ScoreQueue(alone(list("abc")), workers=2)
    with pytest.raises(WorkersKeepDying, match="before they began an image: no room for the model"):  # noqa: PT012
        for _ in range(20):
            queue.die({}, "no room for the model")


def test_workers_that_die_with_whatever_image_end_the_run_but_a_folder_of_killers_does_not() -> None:
    images = [f"{k}" for k in range(100)]
    queue = ScoreQueue(alone(images))
    for _ in range(HOPELESS):
        task = queue.take()
        assert task is not None
        queue.die(noted(task.image), "CUDA is broken")
    task = queue.take()
    assert task is not None
    with pytest.raises(WorkersKeepDying, match="no image was finished: CUDA is broken"):
        queue.die(noted(task.image), "CUDA is broken")
    killers = ScoreQueue([], suspects=noted(*images, attempt=2))
    aside = []
    while task := killers.take():
        aside += killers.die(noted(task.image), "a crash")
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
            workers=30,
        )
        ended: Counter[str] = Counter()
        while not queue.is_done:
            if chance.random() < 0.2:
                list(queue.take_company())
            take_all(queue, most=chance.randrange(1, 6))
            held = list(queue.held())
            touched = chance.sample(held, k=min(len(held), chance.randrange(1, 4)))
            if killers & set(touched):
                aside = queue.die(noted(*touched), "chance")
                ended.update(one.image for one in aside)
                assert {one.image for one in aside} <= killers
            elif chance.random() < 0.05:
                queue.give_back(noted(*touched))
            else:
                queue.finish(held[0])
                ended[held[0]] += 1
        assert ended == Counter(images), seed


def test_what_commands_died_with_again_and_again_is_given_up() -> None:
    notes = noted("often", attempt=UNSEEN_DEATHS + 1) | noted("twice", attempt=UNSEEN_DEATHS)
    (lost,) = given_up(notes)
    assert (lost.image, lost.attempts) == ("often", UNSEEN_DEATHS)
