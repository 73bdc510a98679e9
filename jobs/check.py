"""Check a data set before training on it: python jobs/check.py DIR [--labels DIR] [--out DIR]."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jobs.run import parse_words, run_job
from seg.requests import CheckRequest

if TYPE_CHECKING:
    from seg.check.check import Checked


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return its exit code."""
    return run_job("check", lambda: _check(parse_words(CheckRequest, argv)))


def _check(request: CheckRequest) -> int:
    from jobs.tables import show_check  # here, so that --help loads no OpenCV
    from seg.check.check import check_folder

    checked = check_folder(request)
    return show_check("check", checked, _spell(checked, request), request.out)


def _spell(checked: "Checked", request: CheckRequest) -> str:
    """The command of the training that fits; empty: there is none."""
    from jobs.options import spell_recipe_command
    from jobs.train import Args

    if checked.plan is None:
        return ""
    rule, foreground = checked.found.rule, checked.meaning.foreground
    given = {
        "data": checked.found.data.root,
        "labels": rule.folder,
        "label_suffix": rule.suffix,
        "foreground": foreground,
        "label_colours": rule.colours,
        "classes": rule.classes,
        "follow_links": rule.follow_links,
        "seed": request.seed or None,
    }
    values = {
        name: value for name, value in given.items() if value not in (None, "", ()) and value is not False
    }
    return spell_recipe_command("train", Args, checked.plan.recipe.name, values | checked.plan.params)


if __name__ == "__main__":
    sys.exit(main())
