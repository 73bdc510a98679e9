from dataclasses import replace
from pathlib import Path

import pytest

from seg.data.colours import ColourMask
from seg.data.layout import Sample
from seg.data.plain import open_plain
from seg.data.splits import data_fingerprint
from tests.conftest import WriteArchive


@pytest.fixture
def samples(write_archive: WriteArchive) -> tuple[Sample, ...]:
    return open_plain(write_archive()).samples


def test_what_a_colour_means_is_part_of_the_fingerprint(samples: tuple[Sample, ...], tmp_path: Path) -> None:
    root = tmp_path / "archive"
    red, green = ColourMask(((255, 0, 0),)), ColourMask(((0, 255, 0),))
    variants = [samples, *([replace(one, decoder=by) for one in samples] for by in (red, green))]
    found = [data_fingerprint(variant, root) for variant in variants]
    assert len(set(found)) == 3
    assert found == [data_fingerprint(reversed(variant), root) for variant in variants]


def test_a_frame_without_a_label_counts_as_its_image_alone(
    samples: tuple[Sample, ...], tmp_path: Path
) -> None:
    root, (first, *rest) = tmp_path / "archive", samples
    assert data_fingerprint([replace(first, label=None)], root) == data_fingerprint([], root, [first.image])
    assert data_fingerprint([replace(first, label=None), *rest], root) != data_fingerprint(samples, root)
