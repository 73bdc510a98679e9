"""Colours of classes and of errors, the same in every figure and report, which all eyes can tell apart."""

from collections.abc import Sequence

BACKGROUND, IGNORED = "#3b4354", "#b8c0c8"
MISSED, INVENTED, CONFUSED = "#d55e00", "#8f63e8", "#0f8b8d"
COLOURS = (
    *("#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#f0e442", "#0072b2", "#d55e00", "#900000"),
    *("#b0f0c0", "#7000a0", "#a070f0", "#a05040", "#805080", "#e0c080", "#7020d0", "#90b080"),
    *("#9050e0", "#50f0f0", "#c030b0", "#e08020", "#8090d0", "#702030", "#c0a0c0", "#d02000"),
    *("#900070", "#a06080", "#70d0f0", "#d0f090", "#804040", "#90a050", "#a08050", "#b01010"),
)
"""Okabe and Ito's seven, then those farthest in OKLab from all before them, from background and from ignored,
both to normal sight and to three kinds of colour blindness (Machado et al. 2009); neither grays nor neons."""


def class_colours(classes: Sequence[str]) -> list[str]:
    """A colour for each class in id order; they repeat after 32, slate is background's."""
    rest = classes[1:] if has_background(classes) else classes
    colours = [COLOURS[place % len(COLOURS)] for place in range(len(rest))]
    return [BACKGROUND, *colours] if has_background(classes) else colours


def has_background(classes: Sequence[str]) -> bool:
    """Whether class 0 is what lies around the objects."""
    return classes[0].lower() == "background"


def error_legend(classes: Sequence[str]) -> list[tuple[str, str]]:
    """What an error panel distinguishes, with its colours."""
    if not has_background(classes):
        return [("another class than the truth", MISSED)]
    legend = [("missed: predicted as background", MISSED), ("invented: background in truth", INVENTED)]
    return legend if len(classes) == 2 else [*legend, ("another class than the truth", CONFUSED)]


def to_rgb(colour: str) -> tuple[int, int, int]:
    """Red, green and blue of "#rrggbb"."""
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue
