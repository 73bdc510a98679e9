"""Pictures of a training: curves by epoch."""

from math import isnan
from pathlib import Path
from typing import Any

HIGHLIGHT, QUIET = "#1b6ca8", "#9aa5b1"


def plot_curves(path: Path, history: list[dict[str, Any]]) -> None:
    """Training loss and validation mIoU by epoch, as a PNG; the best epoch is marked.

    history: rows with "epoch", "loss" and "miou" (None or NaN: not measured).
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # not pyplot: no global state, no window system

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in history]
    left.plot(epochs, [row["loss"] for row in history], color=QUIET, marker=".")
    left.set(title="training loss", xlabel="epoch", yscale="log")
    scores = [float("nan") if row["miou"] is None else row["miou"] for row in history]
    right.plot(epochs, scores, color=HIGHLIGHT, marker=".")
    right.set(title="validation mIoU", xlabel="epoch", ylim=(0, 1))
    measured = [(score, epoch) for score, epoch in zip(scores, epochs, strict=True) if not isnan(score)]
    if measured:
        best, epoch = max(measured)
        right.annotate(f"{best:.3f}", (epoch, best), (0, 6), textcoords="offset points", ha="center")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.savefig(path, dpi=110, format="png")
