"""Which samples train and which validate: by sequence, never by frame (docs/formats.md)."""

from dataclasses import dataclass

import numpy as np

from seg.data.layout import DataSet, Sample
from seg.data.listing import natural_key
from seg.errors import RequestError

GAP_SHARE = 0.05
"""Share of a single sequence left out between training and validation: neighbours look alike."""


@dataclass(frozen=True, slots=True)
class Split:
    """Samples for training and for validation, in natural order, and how they were told apart."""

    train: tuple[Sample, ...]
    validation: tuple[Sample, ...]
    how: str

    def limited(self, limit: int | None) -> "Split":
        """The first `limit` samples of each part; None: all."""
        return Split(self.train[:limit], self.validation[:limit], self.how)


def split_samples(data: DataSet, validation_share: float, seed: int) -> Split:
    """Given lists win; else whole sequences, drawn by the seed; a single sequence is cut into two blocks.

    RequestError: too few images for both parts.
    """
    if data.given_split is not None:
        return _given(data)
    sequences = sorted({sample.sequence for sample in data.samples}, key=natural_key)
    if len(sequences) == 1:
        return _blocks(data, validation_share)
    count = min(max(1, round(validation_share * len(sequences))), len(sequences) - 1)
    held_out = {sequences[k] for k in np.random.default_rng(seed).permutation(len(sequences))[:count]}
    return Split(
        tuple(sample for sample in data.samples if sample.sequence not in held_out),
        tuple(sample for sample in data.samples if sample.sequence in held_out),
        f"validation: {', '.join(sorted(held_out, key=natural_key))}, {count} of {len(sequences)} sequences",
    )


def _given(data: DataSet) -> Split:
    assert data.given_split is not None
    by_name = {sample.name: sample for sample in data.samples}
    train, validation = (tuple(by_name[name] for name in names) for names in data.given_split)
    if not train or not validation:
        raise RequestError(
            f"data {data.root}: its lists give {len(train)} images to train, {len(validation)} to validate"
        )
    return Split(train, validation, "split by the data set's own lists")


def _blocks(data: DataSet, validation_share: float) -> Split:
    total = len(data.samples)
    validation = max(1, round(validation_share * total))
    gap = max(1, round(GAP_SHARE * total))
    train = total - validation - gap
    if train < 1:
        raise RequestError(
            f"data {data.root}: {total} labelled images are too few to train and validate; give 3 or more"
        )
    return Split(
        data.samples[:train],
        data.samples[-validation:],
        f"one sequence: its last {validation} images validate, {gap} before them are left out",
    )
