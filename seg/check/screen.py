"""What a check found, as tables for the screen, a picture and values for check.json."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from seg.check.check import Checked
from seg.check.copies import count_scenes
from seg.check.faults import Fault, shown_names
from seg.data.labels import IGNORE
from seg.data.preprocess import find_ranges
from seg.data.splits import Split
from seg.figures.panels import has_background, show_overlay
from seg.figures.plots import GAP_PX, LINE_PX, MARGIN_PX, MUTED, Sheet, list_classes, place_legend, shorten
from seg.files import replacing, write_json
from seg.recipe import short_value
from seg.screen import open_console
from seg.words import plural

WIDTH = 80
KINDS_SHOWN, NAMES_SHOWN = 6, 3
"""Kinds of images, and names a fault, that are listed; the rest is counted."""


def print_check(checked: Checked, faults: Sequence[Fault], reword: Callable[[str], str] = str) -> None:
    """Print what was found, what is wrong and what fits, on standard output, in WIDTH columns.

    reword: how this screen says a text that names fields.
    """
    console = open_console(width=WIDTH)
    for describe in (_totals, _kinds, _intensities, _classes, _choices):
        title, table = describe(checked)
        if table.row_count:
            console.print(title, style="bold")
            console.print(table)
    stopping = sum(fault.stops for fault in faults)
    rest = len(faults) - stopping
    console.print(f"faults: {stopping} that stop a training, {rest} to know of", style="bold")
    table = _table(">", "")
    for number, fault in enumerate(faults, start=1):
        lines = [f"{'STOPS: ' if fault.stops else ''}{reword(f'{fault.what}; {fault.mend}')}"]
        lines += [shown_names(fault, NAMES_SHOWN)] if fault.names else []
        table.add_row(f"{number}", "\n".join(lines), style="bold red" if fault.stops else "")
    if faults:
        console.print(table)


def _table(*headings: str) -> Table:
    """A table whose headings, if any, are for numbers where they end with '>'."""
    table = Table(
        show_header=bool(headings[-1]), header_style="bold", box=box.SIMPLE_HEAD if headings[-1] else None
    )
    for heading in headings:
        right = heading.endswith(">")
        table.add_column(heading.rstrip(">"), justify="right" if right else "left", overflow="fold")
    return table


def _totals(checked: Checked) -> tuple[str, Table]:
    found, table = checked.found, _table("", "")
    data = found.data
    read = len(checked.looks)
    table.add_row(
        "images", f"{checked.total:,}, {'all' if read == checked.total else f'{read:,} spread evenly'} read"
    )
    labelled = len(data.samples) + len(data.test)
    table.add_row("labelled", f"{labelled:,}" + (f", {found.pairing}" if found.pairing else ""))
    if found.rule.folder:
        table.add_row("labels in", str(found.rule.folder))
    if found.dataset != "plain":
        table.add_row("data set", found.dataset)
    if found.ignored:
        table.add_row("ignored", ", ".join(f"{count:,} {kind}" for kind, count in found.ignored.items()))
    sequences = Counter(sequence for _, _, sequence in data.frames())
    lengths = sorted(sequences.values())
    table.add_row("sequences", f"{len(lengths):,}, of {lengths[0]:,} to {lengths[-1]:,} images")
    if scenes := count_scenes(checked.copies, len(checked.images)):
        alike = "no two of one scene" if scenes == len(checked.images) else f"{scenes:,} scenes"
        table.add_row("alike", f"{alike} in {plural(len(checked.images), 'image')}")
    if isinstance(checked.split, Split):
        split = checked.split
        table.add_row("split", f"{len(split.train):,} train, {len(split.validation):,} validate")
        table.add_row("", split.how)
    return f"data {data.root}", table


def _kinds(checked: Checked) -> tuple[str, Table]:
    table = _table("format", "pixels", "width x height", "images>")
    kinds = Counter((facts.header, facts.is_gray) for _, facts in checked.images).most_common()
    for (kind, is_gray), count in kinds[:KINDS_SHOWN]:
        colours = "gray" if kind.channels == 1 else "RGB, all equal" if is_gray else "RGB"
        table.add_row(
            kind.format, f"{kind.bit_depth} bit {colours}", f"{kind.width} x {kind.height}", f"{count:,}"
        )
    if rest := [count for _, count in kinds[KINDS_SHOWN:]]:
        table.add_row(f"{len(rest)} more", "", "", f"{sum(rest):,}")
    return "images", table


def _intensities(checked: Checked) -> tuple[str, Table]:
    table = _table("depth", "means>", "1 % to 99 %>", "largest>")
    for known in find_ranges((facts.header.bit_depth, facts.intensity) for _, facts in checked.images):
        largest = max(
            facts.highest for _, facts in checked.images if facts.header.bit_depth == known.bit_depth
        )
        table.add_row(
            f"{known.bit_depth} bit",
            f"{known.lowest_mean:.0f} to {known.highest_mean:.0f}",
            f"{known.low:.0f} to {known.high:.0f}",
            f"{largest:,}",
        )
    return "intensities", table


def _classes(checked: Checked) -> tuple[str, Table]:
    table = _table("stored id>", "class", "pixels>", "share>", "images>", "objects>", "width>")
    total, meant = max(1, int(checked.stored_pixels.sum())), checked.meaning.table()
    for number in np.flatnonzero(checked.stored_pixels).tolist():
        pixels = int(checked.stored_pixels[number])
        holding = sum(facts.pixels[number] > 0 for _, facts in checked.labels)
        widths = np.concatenate([facts.widths[facts.ids == number] for _, facts in checked.labels])
        kind = int(meant[number])
        name = {IGNORE: "(ignored)", -1: "(unknown)"}.get(kind) or checked.meaning.classes[kind]
        objects = (f"{len(widths):,}", f"{np.median(widths):.0f} px") if len(widths) else ("", "")
        table.add_row(f"{number}", name, f"{pixels:,}", f"{pixels / total:.2%}", f"{holding:,}", *objects)
    return (
        f"labels, {plural(len(checked.labels), 'label')} read; width: the median object's, at its widest",
        table,
    )


def _choices(checked: Checked) -> tuple[str, Table]:
    table = _table("field", "value", "why")
    if checked.plan is None:
        return "", table
    for choice in checked.plan.choices:
        value = choice.value
        words = " ".join(map(short_value, value)) if isinstance(value, tuple) else short_value(value)
        table.add_row(choice.field, words, choice.why)
    return f"what fits, of recipe {checked.plan.recipe.name}", table


def draw_sheet(checked: Checked) -> Sheet | None:
    """Some images, two in a row, their labels outlined in the colours of the classes; None: none was read."""
    classes, table = checked.meaning.classes, checked.meaning.table()
    table = np.where(table < 0, IGNORE, table).astype(np.uint8)
    drawn = [
        (look.sample.name, show_overlay(image, table[ids], classes))
        for look in checked.looks
        if look.picture is not None
        for image, ids in [look.picture]
    ]
    if not drawn:
        return None
    column = GAP_PX + max(panel.shape[1] for _, panel in drawn)
    sheet, top = Sheet(), MARGIN_PX
    for first in range(0, len(drawn), 2):
        row = drawn[first : first + 2]
        for place, (name, panel) in enumerate(row):
            left = MARGIN_PX + place * column
            sheet.write(shorten(name, panel.shape[1], keep="end"), left, top + LINE_PX / 2, colour=MUTED)
            sheet.paste(panel, left, top + LINE_PX)
        top += LINE_PX + max(panel.shape[0] for _, panel in row) + GAP_PX
    place_legend(
        sheet, list_classes((), classes)[has_background(classes) :], (MARGIN_PX, top), 2 * column - GAP_PX
    )
    return sheet


def write_check(out: Path, checked: Checked, faults: Sequence[Fault], command: str) -> None:
    """Write check.json, the figures of the tables with every fault and all its names, and check.png."""
    write_json(out / "check.json", check_values(checked, faults, command))
    if sheet := draw_sheet(checked):
        with replacing(out / "check.png") as path:
            sheet.save(path)


def check_values(checked: Checked, faults: Sequence[Fault], command: str) -> dict[str, Any]:
    """What check.json holds: the tables' figures, every fault with all its names, the command."""
    split = checked.split if isinstance(checked.split, Split) else None
    return {
        "data": str(checked.found.data.root),
        "dataset": checked.found.dataset,
        "images": checked.total,
        "labelled": len(checked.found.data.samples) + len(checked.found.data.test),
        "read": len(checked.looks),
        "train": [sample.name for sample in split.train] if split else [],
        "validation": [sample.name for sample in split.validation] if split else [],
        "classes": list(checked.meaning.classes),
        "class_pixels": checked.class_pixels.tolist(),
        "stored_pixels": {
            f"{k}": int(checked.stored_pixels[k]) for k in np.flatnonzero(checked.stored_pixels)
        },
        "copies": [
            {
                "images": [checked.images[k][0].sample.name for k in (pair.first, pair.second)],
                "alike": pair.correlation,
            }
            for pair in checked.copies
        ],
        "choices": {choice.field: choice.value for choice in (checked.plan.choices if checked.plan else ())},
        "faults": [
            {"what": fault.what, "mend": fault.mend, "names": list(fault.names), "stops": fault.stops}
            for fault in faults
        ],
        "command": command,
    }
