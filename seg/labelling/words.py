"""The words above the image: what is shown, which class comes next, and the keys."""

from collections.abc import Sequence

from seg.data.images import Pixels
from seg.labelling.labelling import Labelling
from seg.labelling.picture import DIM, INK, NOTICE, Colour, Words

Lines = list[list[Words]]


def describe_image(labelling: Labelling, pixels: Pixels, colours: Sequence[Colour]) -> Lines:
    """What is shown and how it is labelled; then the classes in their colours, the next box's in brackets."""
    if labelling.boxes is None:
        state = "not labelled"
    else:
        state = _count(len(labelling.boxes), "box", "boxes") if labelling.boxes else "all background"
    heading: list[Words] = [
        (f"{labelling.place + 1}.", INK),
        (labelling.image, INK),
        (f"{pixels.shape[1]} x {pixels.shape[0]}, {pixels.dtype.itemsize * 8} bits", DIM),
        (state, INK),
        (f"{len(labelling.labelled)} of {len(labelling.images)} labelled", DIM),
    ]
    classes: list[Words] = [("class of the next box:", DIM)]
    for kind, name in enumerate(labelling.files.classes[1:], start=1):
        chosen = kind == labelling.kind
        classes.append((f"[{kind} {name}]" if chosen else f"{kind} {name}", colours[kind]))
    return [heading, classes]


def list_keys(labelling: Labelling, notice: str) -> Lines:
    """The keys that do something now; then what there is to say."""
    keys = ["SPACE draw a box", "n next", "s skip", "p previous", "u undo", "d delete", "q quit"]
    if labelling.boxes is None:
        keys[1] = "n next: all background"
    if len(labelling.files.classes) > 2:
        keys.insert(1, "1-9 or TAB class")
    if labelling.proposals:
        keys.insert(1, f"a accept {_count(len(labelling.proposals), 'proposal', 'proposals')}")
    return [[(key, INK) for key in keys], [(notice, NOTICE)]]


def explain_drawing(labelling: Labelling) -> Lines:
    """What to do while a box is drawn, in as many lines as the keys."""
    name = labelling.files.classes[labelling.kind]
    words = (f"{name}: drag a box with the mouse", "SPACE or ENTER takes it", "c cancels")
    return [[(word, NOTICE) for word in words], []]


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
