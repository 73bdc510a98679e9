"""Everything that is wrong with a data set, in one list, each with how to mend it."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from seg.check.check import Checked
from seg.check.survey import ImageFacts, Look, list_colours
from seg.data.images import Turned
from seg.figures.panels import has_background
from seg.recipe import STRIDE_PX
from seg.words import plural

SATURATED = 0.01
"""Share of an image's pixels at its largest value from which on it is called saturated."""
MOST_COLOURS = 16
"""Of a mask, from which on they are those of a photograph, or of JPEG."""
SMALL_PX = 9
"""A class whose largest object has fewer pixels is a slip of the pen rather than a class."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One thing that is wrong."""

    what: str
    mend: str
    names: tuple[str, ...] = ()
    """The images it is about, or what was said of each."""
    stops: bool = False
    """No training would start, or none that could learn anything."""


def find_faults(checked: Checked) -> list[Fault]:
    """All faults, those first that stop a training."""
    finders = (_of_names, _of_images, _of_labels, _of_classes, _of_kinds, _of_pixels, _of_split)
    faults = [fault for find in finders for fault in find(checked)]
    return sorted(faults, key=lambda fault: not fault.stops)


def _of_names(checked: Checked) -> Iterator[Fault]:
    found = checked.found
    data = found.data
    if found.refusal:
        what, _, mend = found.refusal.rpartition("; ")
        yield Fault(
            what=what or mend, mend=mend if what else "rename them, or draw some: jobs/label.py", stops=True
        )
        return
    labelled, unlabelled = len(data.samples) + len(data.test), len(data.unlabelled)
    if unlabelled:
        total = plural(unlabelled + labelled, "image")
        yield Fault(
            what=f"{unlabelled:,} of {total} have no label and do not train",
            mend="label them, or leave them as they are",
            names=tuple(sample.name for sample in data.unlabelled),
        )
    if found.unused:
        yield Fault(
            what=f"{plural(found.unused, 'label file')} without an image in {data.labels or data.root}",
            mend="add their images, or rename them after these",
        )


def _of_images(checked: Checked) -> Iterator[Fault]:
    bad = [look for look in checked.looks if isinstance(look.image, str)]
    for labelled, what in ((True, "labelled "), (False, "")):
        said = tuple(look.image for look in bad if (look.sample.label is not None) is labelled)
        if said:
            yield Fault(
                what=f"{plural(len(said), f'{what}image')} cannot be read",
                mend="save them again, or take them away" + (" with their labels" if labelled else ""),
                names=tuple(map(str, said)),
                stops=labelled,
            )
    turned = Turned()
    for look, facts in checked.images:
        turned.add(look.sample.name, facts.orientation)
    if turned.warning:
        yield Fault(what=turned.warning, mend="save them upright where labels are drawn on the upright image")


def _of_labels(checked: Checked) -> Iterator[Fault]:
    bad = [look for look in checked.looks if isinstance(look.label, str)]
    if bad:
        yield Fault(
            what=f"{plural(len(bad), 'label')} cannot be used",
            mend=_mend_label(bad[0]),
            names=tuple(str(look.label) for look in bad),
            stops=True,
        )
    empty, ignored = [], []
    for look, facts in checked.labels:
        classes = checked.meaning.count(facts.pixels)
        if not classes.any():
            ignored.append(look.sample.name)
        elif not classes[1:].any() and has_background(checked.meaning.classes):
            empty.append(look.sample.name)
    for names, what, mend in (
        (ignored, "ignored in every pixel", "label some of their pixels, or take them away"),
        (empty, "empty: background alone", "nothing, where these images show no object"),
    ):
        if names:
            every = len(names) == len(checked.labels)
            yield Fault(
                what=f"{plural(len(names), 'mask')} {'is' if len(names) == 1 else 'are'} {what}",
                mend="give the id of the objects, `foreground=ID`, or other labels" if every else mend,
                names=tuple(names),
                stops=every,
            )


def _mend_label(look: Look) -> str:
    """How to mend labels of which this is the first."""
    if "`label_colours`" in str(look.label) and isinstance(look.image, ImageFacts):
        colours = list_colours(look.sample, look.image.size)
        if len(colours) <= MOST_COLOURS:
            lines = ", ".join(" ".join(map(str, colour)) for colour in colours)
            return f"give a file as `label_colours`, a line R G B NAME for each of these colours: {lines}"
    return "mend these files, or take them away"


def _of_classes(checked: Checked) -> Iterator[Fault]:
    meaning, classes = checked.meaning, checked.meaning.classes
    if meaning.unknown:
        holders = [
            look.sample.name for look, facts in checked.labels if facts.pixels[list(meaning.unknown)].any()
        ]
        ids = ", ".join(map(str, meaning.unknown))
        yield Fault(
            what=f"masks hold id {ids}, which none of the {plural(len(classes), 'class', 'classes')} has",
            mend=f"name them in classes.txt, or ignore them: `label_map={meaning.unknown[0]} 255`",
            names=tuple(holders),
            stops=True,
        )
    if meaning.joined:
        ids = ", ".join(map(str, meaning.joined[:6])) + (", ..." if len(meaning.joined) > 6 else "")
        yield Fault(
            what=f"masks hold ids {ids} and no classes.txt names them: they count as one class",
            mend="write classes.txt, a name a line from id 0 on, where they are classes of their own",
        )
    if not checked.labels:
        return
    table = meaning.table()
    for number, pixels in enumerate(checked.class_pixels.tolist()):
        areas = [facts.areas[table[facts.ids] == number] for _, facts in checked.labels]
        largest = max((int(found.max(initial=0)) for found in areas), default=0)
        if not pixels:
            yield Fault(
                what=f"no mask that was read shows class {classes[number]}",
                mend="label some, or take it out of classes.txt: no model can learn it",
            )
        elif 0 < largest < SMALL_PX:
            yield Fault(
                what=f"the largest object of class {classes[number]} has {plural(largest, 'pixel')}",
                mend="look whether it is a slip in a mask; a training can hardly see it",
            )


def _of_kinds(checked: Checked) -> Iterator[Fault]:
    headers = [facts.header for look, facts in checked.images if look.sample.label is not None]
    for what, kinds in (
        ("depths", Counter(f"{header.bit_depth} bit" for header in headers)),
        ("channels", Counter("gray" if header.channels == 1 else "RGB" for header in headers)),
        ("sizes", Counter(f"{header.width} x {header.height}" for header in headers)),
    ):
        if len(kinds) > 1:
            some = ", ".join(f"{kind} ({count:,})" for kind, count in kinds.most_common(4))
            yield Fault(
                what=f"images have {len(kinds)} {what}: {some}{', ...' if len(kinds) > 4 else ''}",
                mend="nothing, if they are of one kind: each image is normalised by itself"
                if what != "sizes"
                else "nothing, if a pixel is as large in all of them",
            )
    crop = checked.recipe.crops.size_px if checked.recipe else (0, 0)
    small = [
        (look.sample.name, min(size))
        for look, size in checked.working_sizes()
        if any(side < wanted for side, wanted in zip(size, crop, strict=True))
    ]
    if small:
        never = min(side for _, side in small) < STRIDE_PX
        yield Fault(
            what=f"{plural(len(small), 'image')} of fewer pixels at working size than a crop of "
            f"{crop[0]} x {crop[1]}",
            mend=f"take them away: a crop has {STRIDE_PX} pixels at least"
            if never
            else "lower `crops.size_px`",
            names=tuple(name for name, _ in small),
            stops=True,
        )


def _of_pixels(checked: Checked) -> Iterator[Fault]:
    constant = [look.sample.name for look, facts in checked.images if facts.is_constant]
    bright = [
        look.sample.name
        for look, facts in checked.images
        if not facts.is_constant and facts.at_highest >= SATURATED
    ]
    if constant:
        yield Fault(
            what=f"{plural(len(constant), 'image')} of one value alone",
            mend="take them away: a camera that sent nothing teaches nothing",
            names=tuple(constant),
        )
    if bright:
        yield Fault(
            what=f"{plural(len(bright), 'image')} with {SATURATED:.0%} of its pixels or more at the largest",
            mend="expose less: what is saturated shows no fringes",
            names=tuple(bright),
        )


def _of_split(checked: Checked) -> Iterator[Fault]:
    split = checked.split
    if not split:
        return
    if isinstance(split, str):
        what, _, mend = split.rpartition("; ")
        yield Fault(what=what, mend=mend, stops=True)
        return
    parts = {sample.name: "train" for sample in split.train}
    parts |= {sample.name: "validate" for sample in split.validation}
    names = [look.sample.name for look, _ in checked.images]
    across = [
        (names[copy.first], names[copy.second])
        for copy in checked.copies
        if {parts.get(names[copy.first]), parts.get(names[copy.second])} == {"train", "validate"}
    ]
    if across:
        yield Fault(
            what=f"{plural(len(across), 'pair')} of images of one scene, one of which trains while the other "
            "validates: figures will be better than the model is",
            mend="keep the images of a scene in a folder of their own, or name it by `sequence=REGEX`",
            names=tuple(f"{one} and {other}" for one, other in across),
        )
    trained = {sample.name for sample in split.train}
    shown = sum(
        (
            checked.meaning.count(facts.pixels)
            for look, facts in checked.labels
            if look.sample.name in trained
        ),
        start=np.zeros(len(checked.meaning.classes), np.int64),
    )
    for number, pixels in enumerate(checked.class_pixels.tolist()):
        if pixels and not shown[number]:
            yield Fault(
                what=f"class {checked.meaning.classes[number]} is in no image that was read and trains",
                mend="try another `seed`, or label it in more sequences",
            )


def shown_names(fault: Fault, count: int) -> str:
    """The first of a fault's names, and how many more there are; empty: it has none."""
    more = len(fault.names) - count
    return "; ".join(fault.names[:count]) + (f"; and {more:,} more" if more > 0 else "")
