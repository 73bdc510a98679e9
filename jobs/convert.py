"""Convert data: python jobs/convert.py dataset NAME SRC OUT --split test, or labels FILE OUT."""

import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import Annotated

from tyro.conf import subcommand

from jobs.options import DatasetArgs, LabelsArgs
from jobs.run import parse_words, run_job
from seg.screen import say

Args = Annotated[DatasetArgs, subcommand("dataset")] | Annotated[LabelsArgs, subcommand("labels")]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return its exit code."""
    return run_job("convert", lambda: _convert(parse_words(Args, argv)))


def _convert(args: DatasetArgs | LabelsArgs) -> int:
    from seg.data import convert, old_labels  # here, so that --help loads no OpenCV

    if isinstance(args, LabelsArgs):
        say(f"{args.out}: {old_labels.convert_labels(args.file, args.out, args.images)} new labels", out=True)
        return 0
    names = {field.name for field in fields(convert.Part)} - {"dataset"}
    part = convert.Part(dataset=args.name, **{name: getattr(args, name) for name in names})
    done = convert.convert_dataset(part, args.source, args.out)
    say(f"{args.out}: {done.images} images, {done.new} of them new ({done.how})", out=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
