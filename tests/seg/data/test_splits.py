from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seg.data.layout import DataSet, Sample
from seg.data.listing import clip_places
from seg.data.splits import pool_parts, split_samples
from seg.errors import RequestError


def make_data(
    counts: list[int], given_split: tuple[tuple[str, ...], tuple[str, ...]] | None = None
) -> DataSet:
    samples = tuple(
        Sample(f"s{k}/{frame}.png", Path(f"i{k}/{frame}"), Path(f"m{k}/{frame}"), f"s{k}")
        for k, count in enumerate(counts)
        for frame in range(count)
    )
    return DataSet(Path("root"), ("a", "b"), samples, given_split)


COUNTS = st.lists(st.integers(1, 9), min_size=2, max_size=12)


@given(COUNTS, st.floats(0.01, 0.99), st.integers(0, 2**40))
def test_whole_sequences_are_held_out_and_nothing_is_lost(counts: list[int], share: float, seed: int) -> None:
    data = make_data(counts)
    split = split_samples(data, share, seed)
    train, validation = ({sample.sequence for sample in part} for part in (split.train, split.validation))
    assert train
    assert validation
    assert not train & validation
    assert len(validation) == min(max(1, round(share * len(counts))), len(counts) - 1)
    assert sorted((*split.train, *split.validation), key=data.samples.index) == list(data.samples)
    assert list(split.train) == sorted(split.train, key=data.samples.index)  # in order
    unit = "images" if set(counts) == {1} else "sequences"
    assert f"{len(validation)} of {len(counts)} {unit}, drawn by seed {seed}" in split.how


@given(st.lists(st.integers(1, 5), min_size=3, max_size=40), st.floats(0.01, 0.6), st.integers(0, 2**32))
def test_a_test_share_is_drawn_from_all_sequences_and_no_part_shares_one(
    counts: list[int], share: float, seed: int
) -> None:
    data = make_data(counts)
    last = data.samples[-1].sequence
    own = {True: tuple(s for s in data.samples if s.sequence == last)}
    own[False] = tuple(s for s in data.samples if s.sequence != last)
    listed = replace(data, samples=own[False], test=own[True], given_split=(("a",), ("b",)))
    split = split_samples(pool_parts(listed), 0.05, seed, test_share=share)
    parts = [{sample.sequence for sample in part} for part in (split.train, split.validation, split.test)]
    assert all(parts)
    assert sum(map(len, parts)) == len(counts)
    assert len(parts[2]) == min(max(1, round(share * len(counts))), len(counts) - 2)
    assert sorted((*split.train, *split.validation, *split.test), key=data.samples.index) == [*data.samples]
    assert split.how.endswith(f"drawn by seed {seed}; {len(parts[2])} more are the test part")


def test_shares_of_a_twentieth_split_all_images_into_90_5_and_5_percent() -> None:
    split = split_samples(make_data([1] * 7349), 0.05, seed=0, test_share=0.05)
    assert (len(split.train), len(split.validation), len(split.test)) == (6615, 367, 367)


def test_a_test_share_of_too_few_sequences_is_refused() -> None:
    with pytest.raises(RequestError, match=r"`test_share=0.1` wants 3 sequences or more, but there are 1"):
        split_samples(make_data([20]), 0.2, seed=0, test_share=0.1)


@given(st.one_of(COUNTS, st.lists(st.integers(3, 30), min_size=1, max_size=1)), st.integers(0, 2**32))
def test_the_split_follows_from_the_seed_whatever_the_order_of_listing(counts: list[int], seed: int) -> None:
    data = make_data(counts)
    order = np.random.default_rng(seed).permutation(len(data.samples))
    shuffled = replace(data, samples=tuple(data.samples[place] for place in order))
    assert split_samples(shuffled, 0.3, seed) == split_samples(data, 0.3, seed)


def test_photographs_are_drawn_one_by_one_and_the_sentence_stays_short() -> None:
    split = split_samples(make_data([1] * 1400), 0.05, seed=3)
    assert (len(split.train), len(split.validation)) == (1330, 70)
    first = ", ".join(sample.sequence for sample in split.validation[:5])
    assert split.how == f"validation: {first}, ..., 70 of 1400 images, drawn by seed 3"


def test_the_seed_draws_the_sequences() -> None:
    drawn = {split_samples(make_data([1] * 10), 0.1, seed).validation[0].sequence for seed in range(40)}
    assert len(drawn) > 5


@given(st.integers(9, 500), st.floats(0.01, 0.99), st.integers(1, 8))
def test_one_sequence_validates_on_its_last_block_after_a_gap(total: int, share: float, frames: int) -> None:
    data = make_data([total])
    split = split_samples(data, share, 0, frames)
    train, validation = len(split.train), len(split.validation)
    assert split.train == data.samples[:train]
    assert split.validation == data.samples[total - validation :]
    assert train >= 1
    assert total - train - validation == max(1, round(0.05 * total), frames - 1)
    seen = {place for last in range(total - validation, total) for place in clip_places(last, frames)}
    assert not seen & set(range(train))  # what validation sees was not trained on
    assert validation == max(1, round(share * total)) or (train == 1 and validation < share * total)
    assert f"last {validation} images validate" in split.how


@pytest.mark.parametrize(("total", "frames", "wanted"), [(1, 1, 3), (2, 1, 3), (2, 2, 3), (4, 4, 5)])
def test_too_few_images_are_refused(total: int, frames: int, wanted: int) -> None:
    with pytest.raises(RequestError, match=f"{total} labelled images are too few .* give {wanted} or more"):
        split_samples(make_data([total]), 0.2, 0, frames)
    assert len(split_samples(make_data([wanted]), 0.2, 0, frames).train) == 1


def test_given_lists_win_over_sequences() -> None:
    lists = (("s0/1.png", "s1/0.png"), ("s0/0.png",))
    split = split_samples(make_data([2, 1], lists), 0.5, seed=0)
    assert tuple(sample.name for sample in split.train) == lists[0]
    assert tuple(sample.name for sample in split.validation) == lists[1]
    assert split.how == "split by the data set's own lists"


@pytest.mark.parametrize("lists", [(("s0/0.png", "s0/0.png"), ("s0/1.png",)), (("s0/0.png",), ("s0/0.png",))])
def test_lists_that_name_an_image_twice_are_refused(lists: tuple[tuple[str, ...], tuple[str, ...]]) -> None:
    with pytest.raises(RequestError, match=r"its lists name s0/0.png more than once"):
        split_samples(make_data([2], lists), 0.5, seed=0)


def test_a_data_set_without_samples_is_refused() -> None:
    with pytest.raises(RequestError, match="data root has no labelled image"):
        split_samples(make_data([]), 0.5, seed=0)


def test_an_empty_given_list_is_refused() -> None:
    with pytest.raises(RequestError, match="1 images to train, 0 to validate"):
        split_samples(make_data([1], (("s0/0.png",), ())), 0.5, seed=0)


def test_a_limit_keeps_the_first_of_each_part() -> None:
    split = split_samples(make_data([5, 5, 5]), 0.3, seed=0)
    limited = split.limited(2)
    assert limited.train == split.train[:2]
    assert limited.validation == split.validation[:2]
    assert split.limited(None) == split
