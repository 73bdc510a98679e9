"""`--dry-run` of a scoring: the plan and its folder, looked at and left as they are."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch

from cluster.ledger.ledger import Ledger
from cluster.requests import ScoreRequest
from cluster.scoring.dry_run import DryRun, Truth, dry_run
from cluster.scoring.image_scorer import ImageScorer
from cluster.scoring.score_folder import look_into, refuse_changed
from cluster.scoring.score_plan import ScorePlan, plan_scoring
from cluster.scoring.score_queue import Task
from cluster.scoring.workplace import choose_workplace
from cluster.session import Session
from seg.data.listing import sequence_of
from seg.run_folder import claim_folder
from seg.storage import Place


def look_only(request: ScoreRequest, session: Session) -> dict[str, Any]:
    """Print what a scoring would meet and cost; the same as plain values. RequestError: as of `score`."""
    workplace, plan = choose_workplace(request, session), plan_scoring(request)
    if plan.out.read_json("run.json") is not None:
        claim_folder(plan.out, plan.identity, older_reader=True)  # which then writes nothing
    again = refuse_changed(plan, request)
    folder = look_into(plan, Ledger(plan.out), {}, again=again, retry_quarantined=request.retry_quarantined)
    pattern = plan.card.sequence if plan.sequences else ""

    def score_sample(images: list[str], scratch: Place) -> Iterable[dict[str, Any]]:
        there = replace(plan, settings=replace(plan.settings, out=scratch))
        there.write_sequences(images)
        return ImageScorer(there.settings).score(there.row(Task(image)) for image in images)

    looked = DryRun(
        archive=plan.settings.archive,
        listing=plan.listing.first(request.limit),
        labels=plan.labels.names if plan.settings.labels else None,
        sequences=len({sequence_of(image, pattern) for image in plan.listing.images}),
        finished=plan.asked - folder.num_left - folder.quarantined,
        quarantined=folder.quarantined,
        pending=folder.pending,
        truth=find_truth(plan),
        out=plan.out,
        masks=plan.settings.masks,
        power=replace(workplace.power, on_gpu=torch.cuda.is_available()),
    )
    return dry_run(looked, score_sample)


def find_truth(plan: ScorePlan) -> Truth | None:
    """Where a plan's labels are; None: it has none."""
    if plan.settings.labels is None:
        return None
    return Truth(
        place=plan.settings.labels,
        names=plan.labels.names,
        classes=plan.card.classes,
        label_map=plan.card.label_map,
        trained=plan.card.class_shares,
    )
