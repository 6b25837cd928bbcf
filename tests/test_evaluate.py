"""Evaluation: its numbers against plain NumPy and scikit-learn, on answers that are made up."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss, recall_score
from torch import nn

from alexnet_cifar10.evaluate import evaluate, predict, wilson_interval

CPU = torch.device("cpu")


class MadeUp(nn.Module):
    """Answers with the ten numbers that stand in the first ten pixels of an image."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.modes = []

    def forward(self, images):
        self.modes.append(self.training)
        return images.flatten(1)[:, :10] * self.scale


@pytest.fixture
def answers():
    """Logits [47, 10] and labels [47], a third of them right; class 9 has no image."""
    numbers = np.random.default_rng(4)
    labels = numbers.integers(0, 9, 47)
    logits = numbers.normal(size=(47, 10)).astype(np.float32)
    logits[np.arange(0, 47, 3), labels[::3]] += 5
    return logits, labels


@pytest.fixture
def batches(answers):
    """Batches of 10, 10, 10, 10 and 7 images that hold these logits."""
    logits, labels = (torch.from_numpy(part) for part in answers)
    images = torch.zeros(47, 3, 32, 32)
    images.view(47, -1)[:, :10] = logits
    return list(zip(images.split(10), labels.split(10), strict=True))


def test_loss_is_the_mean_per_image_also_with_a_short_last_batch(answers, batches):
    logits, labels = answers
    shares = np.exp(logits.astype(np.float64))
    shares /= shares.sum(axis=1, keepdims=True)
    result = evaluate(MadeUp(), batches, CPU)
    assert result.loss == pytest.approx(log_loss(labels, shares, labels=range(10)), rel=1e-5)
    assert result.loss == pytest.approx(-np.log(shares[np.arange(47), labels]).mean(), rel=1e-5)
    np.testing.assert_allclose(result.probabilities, shares, rtol=1e-5)


def test_accuracy_and_confusion_are_those_of_scikit_learn(answers, batches):
    logits, labels = answers
    predicted = logits.argmax(axis=1)
    result = evaluate(MadeUp(), batches, CPU)
    assert np.array_equal(result.labels, labels) and np.array_equal(result.predictions, predicted)
    assert result.accuracy == accuracy_score(labels, predicted)
    assert np.array_equal(result.confusion, confusion_matrix(labels, predicted, labels=range(10)))
    assert result.confusion.sum() == 47


def test_accuracy_of_a_class_is_its_share_and_nan_where_it_has_no_image(answers, batches):
    logits, labels = answers
    result = evaluate(MadeUp(), batches, CPU).class_accuracy
    np.testing.assert_allclose(result[:9], recall_score(labels, logits.argmax(axis=1), labels=range(9), average=None))
    assert np.isnan(result[9])


@pytest.mark.parametrize("training", [True, False])
def test_the_model_answers_in_eval_mode_and_gets_its_mode_back(training, batches):
    model = MadeUp().train(training)
    evaluate(model, batches, CPU)
    predict(model, batches[0][0][0])
    assert model.modes == [False] * 6
    assert model.training is training


def test_the_model_gets_its_mode_back_when_it_is_interrupted(batches):
    def interrupted():
        yield batches[0]
        raise KeyboardInterrupt

    model = MadeUp().train()
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, interrupted(), CPU)
    assert model.training


def test_one_prediction_is_the_row_that_the_evaluation_has(batches):
    model = MadeUp()
    rows = evaluate(model, batches, CPU).probabilities
    one = predict(model, batches[4][0][6])
    assert one.shape == (10,)
    np.testing.assert_array_equal(one.numpy(), rows[46])


def test_nothing_is_kept_for_gradients(batches):
    model = MadeUp()
    assert not predict(model, batches[0][0][0]).requires_grad
    evaluate(model, batches, CPU)
    assert model.scale.grad is None


def test_no_images_are_refused():
    with pytest.raises(ValueError, match="no images to evaluate"):
        evaluate(MadeUp(), [], CPU)


@pytest.mark.parametrize(("correct", "n"), [(0, 10), (30, 30), (865, 1000)])
def test_each_end_of_wilsons_interval_lies_two_standard_errors_of_its_own_from_the_share(correct, n):
    """That is what defines it."""
    for end, side in zip(wilson_interval(correct, n), (1, -1), strict=True):
        assert end + side * 2 * math.sqrt(end * (1 - end) / n) == pytest.approx(correct / n, abs=1e-9)
