"""How good a model is: loss, accuracy, predictions, confusion."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Evaluation:
    """What a model answered on N labelled images."""

    labels: np.ndarray  # int64 [N]
    probabilities: np.ndarray  # float32 [N, 10], each row sums to 1
    loss: float  # cross-entropy, mean per image, in nats

    @property
    def predictions(self) -> np.ndarray:
        """The most probable class of each image, int64 [N]."""
        return self.probabilities.argmax(axis=1)

    @property
    def accuracy(self) -> float:
        """Fraction of the images that are predicted right, 0..1."""
        return float((self.predictions == self.labels).mean())

    @property
    def confusion(self) -> np.ndarray:
        """Number of images of class row that were predicted as class column, int64 [10, 10]."""
        counts = np.zeros((self.probabilities.shape[1],) * 2, np.int64)
        np.add.at(counts, (self.labels, self.predictions), 1)
        return counts

    @property
    def class_accuracy(self) -> np.ndarray:
        """Fraction of each class's images that are predicted right, float64 [10]; NaN for a class without images."""
        with np.errstate(invalid="ignore"):
            return self.confusion.diagonal() / self.confusion.sum(axis=1)


@torch.inference_mode()
def evaluate(model: nn.Module, loader: Iterable[tuple[Tensor, Tensor]], device: torch.device) -> Evaluation:
    """Let `model` answer all images of `loader`, in `eval()` mode; the mode it was in is restored."""
    was_training = model.training
    model.eval()
    try:
        answers = [(model(images.to(device)), labels.to(device)) for images, labels in loader]
    finally:
        model.train(was_training)
    if not answers:
        raise ValueError("there are no images to evaluate the model on: the loader gave no batch.")
    logits = torch.cat([logits for logits, _ in answers]).float()
    labels = torch.cat([labels for _, labels in answers])
    loss = float(F.cross_entropy(logits, labels))
    return Evaluation(labels.cpu().numpy(), logits.softmax(dim=1).cpu().numpy(), loss)


def predict(model: nn.Module, image: Tensor) -> Tensor:
    """Probabilities [10] that `model`, in `eval()` mode, gives to the classes of one image [3, 32, 32] in 0..1."""
    device, nobody_asks = next(model.parameters()).device, torch.zeros(1, dtype=torch.int64)
    return torch.from_numpy(evaluate(model, [(image[None], nobody_asks)], device).probabilities[0])


def wilson_interval(
    correct: float | np.ndarray, n: float | np.ndarray
) -> tuple[float | np.ndarray, float | np.ndarray]:
    """Lower and upper end, 0..1, of two standard errors around the fraction `correct / n`; `n` is at least 1.

    It also holds for few images, and near 0 and 1. Source: Wilson, "Probable Inference, the Law of Succession, and
    Statistical Inference", Journal of the American Statistical Association 22, 1927.
    """
    middle = (correct + 2) / (n + 4)
    reach = 2 / (n + 4) * (correct * (n - correct) / n + 1) ** 0.5
    return middle - reach, middle + reach
