"""Score an archive: python jobs/score.py ARCHIVE --model FILE --out DIR [--labels DIR] [--workers N]."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional, arg

from jobs.outcome import run_job


@dataclass(frozen=True, kw_only=True)
class Args:
    """Predict every image of an archive and count it against its label; the same command resumes."""

    archive: Positional[Annotated[Path, arg(metavar="ARCHIVE")]]
    """Folder of the images, or one in the plain layout (images/, masks/, classes.txt)."""
    model: Annotated[Path, arg(metavar="FILE")]
    """Model file: best.safetensors of a run or a search."""
    out: Annotated[Path, arg(metavar="DIR")]
    """Folder for ledger, masks, summary and report; outside the archive."""
    labels: Annotated[Path | None, arg(metavar="DIR")] = None
    """Folder of the labels; images without one are predicted and not counted."""
    masks: Literal["png", "none"] = "png"
    """Write each prediction as a PNG of class ids, or nothing."""
    workers: Annotated[int | None, arg(metavar="N")] = None
    """Scoring processes; default: one a GPU, else $FRINGE_WORKERS, else 1; 0: this process, without Ray."""
    limit: Annotated[int | None, arg(metavar="N")] = None
    """Score only the first N images."""
    halo: Annotated[int | None, arg(metavar="N")] = None
    """Context around a crop's core in working pixels; default: the model file's."""
    batch: int = 4
    """Crops in a forward pass, all of one image."""
    precision: Literal["float32", "bf16"] = "float32"
    """What the model computes in."""
    threads: int = 1
    """CPU threads a worker computes with; another number is another run."""
    include: Annotated[tuple[str, ...], arg(metavar="PATTERN ...")] = ()
    """Shell patterns on the relative path; only images that match one."""
    exclude: Annotated[tuple[str, ...], arg(metavar="PATTERN ...")] = ()
    """Shell patterns on the relative path; no image that matches one."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return its exit code."""
    return run_job("score", lambda: _score(tyro.cli(Args, args=argv)))


def _score(args: Args) -> int:
    from cluster.report import write_report  # here, so that --help loads no torch and no ray
    from cluster.scoring import ScoreRequest, score
    from cluster.session import check_workers, compute_session
    from jobs.figures import print_figures

    check_workers(args.workers, lowest=0)
    options = vars(args) | {"masks": args.masks == "png", "halo_px": args.halo}
    options.pop("halo")
    with compute_session(use_ray=args.workers != 0) as session:
        summary = score(ScoreRequest(**options), session)
    report = write_report(summary.folder)
    print_figures("score", summary.values, summary.folder)
    print(f"report: {report}")
    return summary.exit_code


if __name__ == "__main__":
    sys.exit(main())
