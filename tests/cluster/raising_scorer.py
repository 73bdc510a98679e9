"""A scorer that raises; apart from the light ones, as it imports torch."""

from seg.predict.predictor import Prediction
from seg.score.predict import ImageScorer
from seg.score.read import ScorerSettings, Work


class RaisingScorer(ImageScorer):
    """Scores as ImageScorer does, and raises at one image when the model gets it."""

    def __init__(self, settings: ScorerSettings, *, raises: str, process: str | None = None) -> None:
        super().__init__(settings, process=process)
        self.raises = raises

    def predict(self, work: Work) -> Prediction:
        if work.order.image == self.raises:
            raise RuntimeError("no kernel for this")
        return super().predict(work)
