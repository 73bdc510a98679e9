"""Commands as pages show them, taken by the parsers of their jobs."""

import shlex
from collections.abc import Callable
from functools import partial
from typing import Any

import tyro

from jobs import convert, pack, simulate, status, train, tune
from jobs.options import parse
from jobs.run import OPTIONS, parse_words
from seg.requests import CheckRequest, LabelRequest, PredictRequest, ReportRequest, ScoreRequest

PARSERS: dict[str, Callable[[list[str]], Any]] = {
    "train": partial(parse, train.Args),
    "tune": partial(parse, tune.Args),
    "pack": partial(parse, pack.Args),
    "convert": partial(parse_words, convert.Args),
    "simulate": partial(parse_words, simulate.Args),
    "status": partial(parse_words, status.Args, config=(tyro.conf.FlagCreatePairsOff,)),
    "check": partial(parse_words, CheckRequest),
    "label": partial(parse_words, LabelRequest),
    "predict": partial(parse_words, PredictRequest),
    "report": partial(parse_words, ReportRequest),
    "score": partial(parse_words, ScoreRequest),
}


def parse_command(command: str) -> Any:
    """What a job is asked for by a line: a verb and its options, or what begins with fringe or python jobs/.

    SystemExit: the job takes no such options. RequestError: they do not fit.
    """
    words = shlex.split(command, comments=True)
    if words[0] == "fringe":
        del words[0]
    elif words[0] == "python":
        words[:2] = [words[1].removeprefix("jobs/").removesuffix(".py")]
    try:
        return PARSERS[words[0]](words[1:])
    finally:
        OPTIONS.clear()
