"""Label images in a window: python jobs/label.py FOLDER [--model FILE] [--out DIR] [--queue review.csv]."""

import os
import sys
from collections.abc import Sequence

from jobs.next import tell_after_labelling
from jobs.run import parse_words, run_job
from seg.requests import LabelRequest
from seg.screen import say


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return its exit code."""
    return run_job("label", lambda: _label(parse_words(LabelRequest, argv)))


def _label(request: LabelRequest) -> int:
    from seg.label.folder import label_folder  # here, so that --help loads no OpenCV

    label_folder(request, leave=_leave)
    tell_after_labelling(request)
    return 0


def _leave() -> None:
    """End at once, as Ctrl-C does: nothing is unsaved."""
    say("label: stopped; the same command goes on from here")
    os._exit(4)


if __name__ == "__main__":
    sys.exit(main())
