import pytest

from jobs.tables import print_figures
from seg.errors import StoppedBy


@pytest.mark.parametrize(
    ("left", "stopped_by", "end"),
    [
        (0, StoppedBy.FINISHED, "1 in quarantine"),
        (14, StoppedBy.FINISHED, "1 in quarantine, 14 left by --limit"),
        (14, StoppedBy.DEADLINE, "1 in quarantine, 14 left"),
    ],
)
def test_every_image_of_an_archive_is_somewhere(
    capsys: pytest.CaptureFixture[str], left: int, stopped_by: StoppedBy, end: str
) -> None:
    counts = {"images_scored": 4, "images_skipped": 2, "images_quarantined": 1, "images_left": left}
    print_figures("score", counts | {"images_found": 7 + left, "stopped_by": stopped_by, "labelled": 0}, "x")
    first = capsys.readouterr().out.splitlines()[0]
    assert first == f"{7 + left} images: 4 scored now, 2 were in the ledger, {end}"
