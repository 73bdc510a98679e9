"""Predict an image, or a handful: python jobs/predict.py IMAGE... --model FILE [--out DIR]."""

import sys
from collections.abc import Sequence

from jobs.refusals import refuse_predicting
from jobs.run import parse_words, run_job
from seg.requests import PredictRequest


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return its exit code."""
    return run_job("predict", lambda: _predict(parse_words(PredictRequest, argv)))


def _predict(request: PredictRequest) -> int:
    refuse_predicting(request)
    from jobs.next import tell_after_predicting
    from jobs.tables import print_predictions  # here, so that --help loads no torch
    from seg.score.handful import predict_handful

    summary = predict_handful(request)
    print_predictions(summary.values, summary.folder)
    if summary.values["images_scored"]:
        tell_after_predicting(request, summary.folder)
    return summary.exit_code


if __name__ == "__main__":
    sys.exit(main())
