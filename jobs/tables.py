"""The figures of a summary as a table on the screen, plain where it is no terminal."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from jobs.run import in_options
from seg.errors import DONE, REFUSED, StoppedBy
from seg.recipe import short_value
from seg.screen import open_console, say
from seg.words import ENDINGS, plural, ratio

if TYPE_CHECKING:
    from seg.check.check import Checked  # which loads OpenCV
    from seg.report.comparison import Comparison, Difference  # which load torch
    from seg.search.trials import TrialRecord


def print_figures(job: str, summary: dict[str, Any], folder: Path | str) -> None:
    """Print IoU and Dice by class, alarms, the totals, then how the job ended and where its results are."""
    console = open_console(soft_wrap=True)
    if summary.get("labelled", 1) and "confusion" in summary:
        table = _open_table("class", "IoU", "Dice", "true pixels")
        truth = [sum(row) for row in summary["confusion"]]
        for name, pixels in zip(summary["classes"], truth, strict=True):
            table.add_row(name, ratio(summary["iou"][name]), ratio(summary["dice"][name]), f"{pixels:,}")
        console.print(table)
        console.print(f"mIoU {ratio(summary['miou'])}  pixel accuracy {ratio(summary['pixel_accuracy'])}")
    print_alarms(job, summary.get("alarms", ()))
    if "images_found" in summary:
        left = summary.get("images_left", 0)
        by = " by --limit" if summary["stopped_by"] == StoppedBy.FINISHED else ""
        console.print(
            f"{summary['images_found']} images: {summary['images_scored']} scored now, "
            f"{summary['images_skipped']} were in the ledger, {summary['images_quarantined']} in quarantine"
            + (f", {left} left{by}" if left else "")
        )
    say(f"{job}: {ENDINGS[summary['stopped_by']]}; {folder}", out=True)


def print_alarms(job: str, alarms: Iterable[str]) -> None:
    """Print each sign that a model learned nothing, as a warning's line."""
    console = open_console(soft_wrap=True)
    for alarm in alarms:
        console.print(f"{job}: warning: {alarm}", style="bold red")


def print_predictions(values: dict[str, Any], folder: str, shown: int = 20) -> None:
    """Print the images of a predict's summary.json, the classes of them all, and where its files are."""
    images, console = values["images"], open_console(soft_wrap=True)
    if images:
        by_image = _open_table("image", "size", "objects", "confidence")
        for one in images[:shown]:
            size = f"{one['width']} x {one['height']}"
            by_image.add_row(one["image"], size, f"{len(one['objects']):,}", ratio(one["confidence"]))
        by_class = _open_table("class", "pixels", "share", "objects")
        for name, pixels in values["class_pixels"].items():
            share, objects = pixels / values["pixels"], values["class_objects"][name]
            by_class.add_row(name, f"{pixels:,}", f"{100 * share:.2f} %", f"{objects:,}")
        console.print(by_image)
        if len(images) > shown:
            console.print(f"and {len(images) - shown:,} more")
        console.print(by_class)
    count = plural(values["images_scored"], "image")
    aside = f", {values['images_quarantined']} left out" if values["images_quarantined"] else ""
    say(
        f"predict: {count} predicted{aside}; {folder}",
        out=True,
    )


def _open_table(first: str, *numbers: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(first)
    for heading in numbers:
        table.add_column(heading, justify="right")
    return table


def show_check(job: str, checked: "Checked", command: str = "", out: Path | None = None) -> int:
    """Print what a check found and, where a training would start, its command; returns the exit code.

    out: folder that also gets check.json and check.png.
    """
    from seg.check.faults import find_faults
    from seg.check.screen import print_check, write_check

    faults = find_faults(checked)
    print_check(checked, faults, in_options)
    stopping = sum(fault.stops for fault in faults)
    if command and not stopping:
        for line in ("the training that fits:", "", *command.splitlines(), ""):
            say(line, out=True)
    if out:
        write_check(out, checked, faults, "" if stopping else command)
        say(f"{job}: check.json and check.png are in {out}", out=True)
    count = plural(stopping, "fault")
    say(f"{job}: {f'{count} would stop a training' if stopping else 'nothing stops a training'}", out=True)
    return REFUSED if stopping else DONE


def print_leaderboard(trials: "list[TrialRecord]", searched: Sequence[str], shown: int = 10) -> None:
    """Print the best trials of a search, and why some failed; leaderboard.csv has them all.

    searched: the recipe's fields that trials differ in, by their dotted names.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("trial", "mIoU", "epochs", "status", *(name.rpartition(".")[2] for name in searched)):
        table.add_column(heading)
    for trial in trials[:shown]:
        numbers, settings = (
            (ratio(trial.miou), str(trial.journal.epochs_done)),
            map(trial.params.get, searched),
        )
        table.add_row(trial.name, *numbers, trial.status, *map(short_value, settings))
    console = open_console(soft_wrap=True)
    console.print(table)
    for trial in trials:
        if trial.error:
            say(f"trial {trial.name}: {trial.error}", out=True)


def print_differences(comparison: "Comparison") -> None:
    """Print IoU by class in both scorings, their difference with its interval, then how many images."""
    table = _open_table("class", "A", "B", "B - A", "95 % interval")
    for row in (*comparison.classes, comparison.miou):
        table.add_row(row.name, ratio(row.a), ratio(row.b), ratio(row.change, sign="+"), _interval(row))
    console = open_console(soft_wrap=True)
    console.print(table)
    console.print(
        f"{comparison.images} images compared; {comparison.unlabelled} without a label, "
        f"{comparison.only_a.count} in A alone, {comparison.only_b.count} in B alone"
    )


def _interval(row: "Difference") -> str:
    return f"{ratio(row.interval.low, sign='+')} to {ratio(row.interval.high, sign='+')}"
