"""Boxes that a trained model proposes: what it predicts of an image, object by object."""

from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from seg.checkpoint import load_model
from seg.data.images import Pixels
from seg.data.preprocess import choose_statistics, preprocess
from seg.labelling.label_files import Boxes, make_box
from seg.predict import Predictor


class Proposer:
    """Proposes boxes for images with one model, on the GPU where there is one."""

    def __init__(self, model_file: Path, min_object_px: int) -> None:
        """`min_object_px`: what covers fewer own pixels is left out. RequestError: it is no model file."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model, self.card = load_model(model_file, device)
        self.predictor = Predictor(model, self.card.tiling, batch=1, device=device)
        self.min_object_px = min_object_px

    def propose_boxes(self, image: Pixels) -> Boxes:
        """Boxes around the objects that the model sees in an image, as read.

        UnsupportedImage: the model was fitted on another bit depth.
        """
        working = preprocess(image, self.card.preprocessing)
        statistics = choose_statistics(working, self.card.preprocessing, self.card.statistics)
        size = (image.shape[0], image.shape[1])
        ids = self.predictor.predict(working, statistics, size).ids.cpu().numpy()
        return find_objects(ids, len(self.card.classes), self.min_object_px)


def find_objects(ids: NDArray[np.uint8], num_classes: int, min_object_px: int) -> Boxes:
    """Boxes around the 8-connected components of each class but background, uint8 [H, W], of enough pixels.

    By class, then from the top, then from the left.
    """
    boxes = []
    for kind in range(1, num_classes):
        _, _, found, _ = cv2.connectedComponentsWithStats((ids == kind).view(np.uint8), connectivity=8)
        for left, top, width, height, pixels in found[1:].tolist():  # the first is all the rest
            if pixels >= min_object_px:
                boxes.append(make_box(kind, left, top, left + width, top + height))
    return tuple(sorted(boxes, key=lambda box: (box.kind, box.top, box.left)))
