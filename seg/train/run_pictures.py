"""Pictures of a finished run: what its best model predicts, and which classes it takes for which."""

from pathlib import Path

import numpy as np
import torch

from seg.data.images import ImageFiles
from seg.figures.plots import Example, plot_confusion, plot_predictions
from seg.files import replacing
from seg.pack.training_data import TrainingData, open_packs
from seg.predict.predictor import open_predictor
from seg.progress import progress
from seg.recipe import Recipe
from seg.train.state import Journal

MOST_EXAMPLES = 4


def draw_confusion(folder: Path, classes: tuple[str, ...], journal: Journal) -> None:
    """Write confusion.png: the best epoch's matrix on validation."""
    with replacing(folder / "confusion.png") as temporary:
        plot_confusion(temporary, np.array(journal.best_confusion, np.int64), classes)


def draw_examples(folder: Path, data: TrainingData, recipe: Recipe) -> None:
    """Write examples.png: image, truth, prediction and error of some validation images, evenly chosen."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    predictor, card = open_predictor(folder / "best.safetensors", device, precision=recipe.precision)
    pack = open_packs(data, recipe)[1]
    samples = {sample.name: sample for sample in data.split.validation}
    count = min(MOST_EXAMPLES, len(pack.labelled))
    rows = [pack.labelled[len(pack.labelled) * place // count] for place in range(count)]
    examples = []
    with progress("drawing examples", count) as advance:
        for clip in (pack.clip(row, card.frames) for row in rows):
            image = clip[-1]
            frames = [frame.frame(card.statistics) for frame in clip]
            ids = predictor.predict_frames(frames, image.own_size).ids.cpu().numpy()
            pixels = ImageFiles().decode(samples[image.name].image, samples[image.name].page)
            assert image.own_mask is not None, "a validation pack holds masks at own size"
            examples.append(Example(image.name, pixels, image.own_mask, ids))
            advance()
    with replacing(folder / "examples.png") as temporary:
        plot_predictions(temporary, examples, card.classes)
