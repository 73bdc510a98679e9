"""Every foreign file through reader and header, against the truths: python -m tests.foreign [--details]."""

import tyro

from tests.foreign.specification import is_ours
from tests.foreign.verdicts import CORPUS, DIFFERENT, FAILURES, NOT_JUDGED, files_of, judge_files, table


def main(details: bool = False, folder: str = "") -> None:
    """Print the table; with details, each page that is different, failed or not judged.

    folder: only that one.
    """
    files = [path for path in files_of(CORPUS) if folder in ("", path.parent.name)]
    verdicts = list(judge_files(files))
    print(f"{len(files)} files\n{table(verdicts)}")
    for verdict in verdicts:
        if details and (verdict.kind in (DIFFERENT, NOT_JUDGED, *FAILURES) or verdict.broken_promise):
            side = "ours by the specification" if is_ours(verdict) else ""
            print(verdict.file, verdict.page, verdict.kind, verdict.detail, verdict.broken_promise, side)


if __name__ == "__main__":
    tyro.cli(main)
