"""A dry run on the screen: tables on a terminal, the same as plain text elsewhere."""

from typing import Any

from rich import box
from rich.table import Table

from cluster.live_view import time_span
from seg.screen import open_console, visible

PLAIN_WIDTH = 1000
"""Off a terminal nothing is wrapped."""
KINDS_SHOWN, BAD_SHOWN = 12, 3
"""Kinds of images, and images a reason, that are listed; the rest is counted."""


def print_dry_run(values: dict[str, Any]) -> None:
    """Print what a dry run found, on standard output."""
    console = open_console()
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    for title, table in (
        _totals(values),
        _kinds(values),
        _bad(values),
        _label_classes(values),
        _bad_labels(values),
        _estimate(values),
    ):
        if table.row_count:
            table.box = box.ROUNDED if console.is_terminal else None
            table.pad_edge = console.is_terminal
            console.print(title, style="bold")
            console.print(table)


def _table(*headings: str) -> Table:
    """A table whose headings, if any, are for numbers where they end with '>'."""
    table = Table(show_header=bool(headings[0]), header_style="bold")
    for heading in headings:
        right = heading.endswith(">")
        table.add_column(heading.rstrip(">"), justify="right" if right else "left", overflow="fold")
    return table


def _totals(values: dict[str, Any]) -> tuple[str, Table]:
    table = _table("", "")
    table.add_row("images", f"{values['images']:,}, {_size(values['bytes'])}")
    if values["ignored"]:
        ignored = (f"{count:,} {kind}" for kind, count in values["ignored"].items())
        table.add_row("ignored", ", ".join(ignored))
    table.add_row("sequences", f"{values['sequences']:,}")
    labelled = values["labelled"]
    share = f" ({labelled / max(1, values['images']):.1%})" if labelled is not None else ""
    table.add_row("labelled", "no labels given" if labelled is None else f"{labelled:,}{share}")
    done = f"{values['finished']:,} in the ledger, {values['quarantined']:,} in quarantine"
    table.add_row("done before", done)
    table.add_row("to score", f"{values['pending']:,}")
    return f"archive {values['archive']}", table


def _kinds(values: dict[str, Any]) -> tuple[str, Table]:
    read, images = values["headers_read"], values["images"]
    title = f"headers, all {read:,}" if read == images else f"headers, {read:,} of {images:,} spread evenly"
    table = _table("format", "pixels", "width x height", "images>", "share>")
    kinds = values["kinds"]
    for kind in kinds[:KINDS_SHOWN]:
        pixels = f"{kind['bit_depth']} bit {'gray' if kind['channels'] == 1 else 'RGB'}"
        size, count = f"{kind['width']} x {kind['height']}", kind["images"]
        table.add_row(kind["format"], pixels, size, f"{count:,}", f"{count / read:.1%}")
    if rest := kinds[KINDS_SHOWN:]:
        count = sum(kind["images"] for kind in rest)
        table.add_row(f"{len(rest)} more", "", "", f"{count:,}", f"{count / read:.1%}")
    return title, table


def _label_classes(values: dict[str, Any]) -> tuple[str, Table]:
    """Pixels by class of a sample of labels, beside the shares that the model was trained on."""
    read, classes = values["labels_read"], values["label_classes"]
    known = any(row["trained"] is not None for row in classes)
    table = _table("class", "pixels>", "share>", *(["in training>"] if known else []))
    for row in classes if read else []:
        trained = [f"{row['trained']:.2%}"] if known else []
        table.add_row(row["class"], f"{row['pixels']:,}", f"{row['share']:.2%}", *trained)
    if read and values["label_ignored"]:
        table.add_row("ignored", f"{values['label_ignored']:,}", "", *([""] if known else []))
    labelled = values["labelled"] or 0
    looked_at = f"all {read:,}" if read == labelled else f"{read:,} of {labelled:,}"
    return f"labels, {looked_at}", table


def _bad_labels(values: dict[str, Any]) -> tuple[str, Table]:
    table, found = _table("", ""), values["bad_labels"]
    for bad in found[:BAD_SHOWN]:
        table.add_row(bad["image"], bad["detail"])
    if len(found) > BAD_SHOWN:
        table.add_row(f"and {len(found) - BAD_SHOWN:,} more", "")
    return "bad labels among these: their images go to quarantine", table


def _bad(values: dict[str, Any]) -> tuple[str, Table]:
    table = _table("reason", "images>", "which")
    for reason, found in values["bad_headers"].items():
        lines = [f"{visible(bad['image'])}: {visible(bad['detail'])}" for bad in found[:BAD_SHOWN]]
        if len(found) > BAD_SHOWN:
            lines.append(f"and {len(found) - BAD_SHOWN:,} more")
        table.add_row(reason, f"{len(found):,}", "\n".join(lines))
    return "bad headers: these go to quarantine", table


def _estimate(values: dict[str, Any]) -> tuple[str, Table]:
    timed = len(values["timed"])
    title = f"estimate, from {timed} image{'' if timed == 1 else 's'} timed here"
    table = _table("", "")
    for bad in values["timed_bad"]:
        table.add_row("set aside", f"{bad['image']}: {bad['reason']}, {bad['detail']}")
    if values["seconds"] is None:
        table.add_row("time", "not known: nothing to score" if not values["pending"] else "not known")
        return title, table
    workers = f"{values['workers']} worker{'' if values['workers'] == 1 else 's'}"
    table.add_row("time", f"about {time_span(values['seconds'])} with {workers}, besides Ray's start")
    free, wanted = values["bytes_free"], values["bytes_to_write"]
    room = "" if free is None else f", {_size(free)} free"
    short = "; NOT ENOUGH" if free is not None and wanted > free else ""
    table.add_row("disk", f"about {_size(wanted)}{room} in {values['out']}{short}")
    return title, table


def _size(count: int) -> str:
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count / 1e3:.1f} kB"
