"""Muon: without orthogonal steps it is PyTorch's SGD; with them, every direction of a matrix is changed alike."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from alexnet_cifar10.model import AlexNet
from alexnet_cifar10.optim import Muon, make_optimizer, make_schedule, orthogonalize
from alexnet_cifar10.recipes import FAST


@pytest.mark.parametrize("shape", [(32, 96), (96, 32), (1, 9)])
def test_all_directions_of_an_orthogonalized_matrix_have_about_the_same_length(shape):
    torch.manual_seed(0)
    matrix = 1000 * torch.randn(shape)
    result = orthogonalize(matrix)
    assert result.shape == shape
    lengths = torch.linalg.svdvals(result)
    assert lengths.min() > 0.5 and lengths.max() < 1.3
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    ours = u.T @ result @ vh.T  # in the directions of the matrix itself
    assert torch.allclose(ours, ours.diagonal().diag(), atol=1e-3), "the directions are those of the matrix"
    assert (ours.diagonal() > 0).all()


def test_a_gradient_of_zeros_stays_finite():
    assert torch.equal(orthogonalize(torch.zeros(4, 6)), torch.zeros(4, 6))


def small_network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 5))


def train(model, optimizer, steps=5):
    torch.manual_seed(2)
    for _ in range(steps):
        loss = F.cross_entropy(model(torch.rand(6, 3, 8, 8)), torch.randint(0, 5, (6,)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return list(model.parameters())


def test_without_orthogonal_steps_it_is_sgd_with_nesterov_momentum():
    ours, theirs = small_network(), small_network()
    mine = train(ours, Muon([{"params": list(ours.parameters())}], lr=0.1, momentum=0.9))
    sgd = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    for one, other in zip(mine, train(theirs, sgd), strict=True):
        torch.testing.assert_close(one, other)


def test_a_step_of_a_convolution_is_no_longer_than_the_learning_rate_and_evener_than_the_gradient():
    model = small_network()
    before = model[2].weight.detach().clone()
    groups = [{"params": [model[2].weight], "orthogonal": True}]
    train(model, Muon(groups, lr=0.01, momentum=0.9), steps=1)
    step = torch.linalg.svdvals((model[2].weight.detach() - before).flatten(1)) / 0.01
    gradient = torch.linalg.svdvals(model[2].weight.grad.flatten(1))
    assert 0.5 < step.max() < 1.3
    assert step.max() / step.min() < gradient.max() / gradient.min() / 2


def test_weights_decay_by_a_fraction_of_themselves_where_it_is_asked_for():
    model = small_network()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    hidden, rest = [model[2].weight], [p for p in model.parameters() if p is not model[2].weight]
    optimizer = Muon([{"params": hidden, "orthogonal": True, "weight_decay": 0.2}, {"params": rest}], 0.1, 0.9)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for parameter, old in zip(model.parameters(), before, strict=True):
        torch.testing.assert_close(parameter.detach(), old * (0.98 if parameter is model[2].weight else 1.0))


def test_its_state_goes_on_to_the_last_bit():
    def muon(model):
        hidden, rest = [model[2].weight], [p for p in model.parameters() if p is not model[2].weight]
        return Muon([{"params": hidden, "orthogonal": True}, {"params": rest}], lr=0.05, momentum=0.9)

    straight = small_network()
    optimizer = muon(straight)
    train(straight, optimizer, 3)
    other = small_network()
    other.load_state_dict(straight.state_dict())
    again = muon(other)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    pairs = zip(train(straight, optimizer, 3), train(other, again, 3), strict=True)
    assert all(torch.equal(one, another) for one, another in pairs)


def test_fast_makes_the_steps_of_the_hidden_layers_orthogonal_and_forgets_no_weight():
    model = AlexNet()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    hidden, rest = make_optimizer(model, replace(FAST, weight_decay=0.1), torch.float32).param_groups
    assert hidden["orthogonal"] and not rest["orthogonal"]
    assert (hidden["weight_decay"], rest["weight_decay"]) == (0.1, 0.0), "biases and normalisation do not decay"
    blocks = [f"conv_block{number}.0.weight" for number in (2, 3, 4, 5)]
    assert [names[id(parameter)] for parameter in hidden["params"]] == [*blocks, "linear1.weight"]
    assert len(hidden["params"]) + len(rest["params"]) == len(names)


def test_all_but_hidden_weights_learn_at_a_fraction_of_the_rate_from_the_first_step_to_the_last():
    model = small_network()
    recipe = replace(FAST, learning_rate=0.1, others_rate=0.25)
    optimizer = make_optimizer(model, recipe, torch.float32)
    schedule = make_schedule(optimizer, recipe, steps=10)
    for _ in range(10):
        hidden, rest = optimizer.param_groups
        assert 0 < hidden["lr"] <= 0.1 and rest["lr"] == pytest.approx(hidden["lr"] / 4)
        optimizer.step()
        schedule.step()


def test_sgd_is_pytorchs_own_with_nesterov_momentum():
    recipe = replace(FAST, optimizer="sgd", weight_decay=None, others_rate=None)
    optimizer = make_optimizer(small_network(), recipe, torch.float32)
    assert type(optimizer) is torch.optim.SGD
    assert (optimizer.defaults["momentum"], optimizer.defaults["nesterov"]) == (FAST.momentum, True)
