"""A scores folder that this user may not write to: what it came to, where nothing is left to score."""

import os

from cluster.ledger.ledger import Ledger
from cluster.outcome import StoppedBy
from cluster.requests import ScoreRequest
from cluster.scoring.score_folder import look_into, refuse_changed
from cluster.scoring.score_plan import ScorePlan
from cluster.scoring.score_summary import ScoreSummary
from seg.errors import RequestError
from seg.run_folder import claim_folder, score_figures
from seg.screen import say
from seg.storage import Place


def is_read_only(out: Place) -> bool:
    """Whether there is a scoring in a folder of this machine to which this user may add no file."""
    there = out.is_local and out.stat("run.json") is not None
    return there and not os.access(out.local(), os.W_OK, effective_ids=True)


def look_back(plan: ScorePlan, request: ScoreRequest) -> ScoreSummary:
    """The figures of a finished scoring from its ledger; nothing is written, nor locked.

    RequestError: images are left to score, or something else would have to be written; as of `score`.
    """
    claim_folder(plan.out, plan.identity)  # which writes nothing where there is a run.json
    ledger = Ledger(plan.out)
    again = refuse_changed(plan, request)
    folder = look_into(plan, ledger, {}, again=again, retry_quarantined=request.retry_quarantined)
    if folder.num_left or request.export:
        left = (
            f"images are left to score: {folder.num_left}"
            if folder.num_left
            else "--export would write there"
        )
        mend = "mend its permissions, or give another --out"
        raise RequestError(f"--out {plan.out} cannot be written to by this user, and {left}; {mend}")
    say(f"nothing left to score; {plan.out} cannot be written to, so all in it stays as it is")
    totals = ledger.totals(len(plan.card.classes))
    values = {
        "images_found": len(plan.listing.images),
        "images_scored": 0,
        "images_skipped": folder.skipped,
        "images_quarantined": sum(rows.num_rows for rows in ledger.quarantine_rows(["image"])),
        "labelled": totals.labelled,
        "classes": plan.card.classes,
        **score_figures(totals.confusion, plan.card.classes),
        "stopped_by": StoppedBy.FINISHED,
    }
    return ScoreSummary(plan.out, values, is_kept=True)
