"""Optimisers and learning-rate schedules: Muon, one cycle, and which of them a recipe takes.

Muon: Jordan and others, "Muon: An optimizer for hidden layers in neural networks", 2024
(https://kellerjordan.github.io/posts/muon/). PyTorch's own (since 2.9) takes matrices only, not convolutions.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from alexnet_cifar10.recipes import Recipe


def orthogonalize(matrix: Tensor) -> Tensor:
    """Newton-Schulz iteration, three steps: approximates `U V^T` of a matrix [M, N] = `U S V^T`.

    Singular values (the lengths of a matrix's directions) above 0.02 of the Frobenius norm end between 0.68 and 1.21;
    smaller ones have grown up to 41-fold. Only matrix products are needed.
    """
    a, b, c = 3.4445, -4.7750, 2.0315  # they make small singular values grow fast
    wide = matrix if matrix.size(0) <= matrix.size(1) else matrix.T
    x = wide / (wide.norm() + 1e-7)  # no singular value is above 1
    for _ in range(3):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x if matrix.size(0) <= matrix.size(1) else x.T


class Muon(Optimizer):
    """SGD with Nesterov momentum; in groups with `"orthogonal": True` each step is made orthogonal before it is taken.

    A convolution's weight [O, I, H, W] is taken as a matrix [O, I*H*W]. `precision` is the type of its products. In
    groups with `"weight_decay": decay`, weights also lose the fraction `lr * decay` of themselves in each step
    (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019).
    """

    def __init__(
        self, params: Iterable[dict[str, Any]], lr: float, momentum: float, precision: torch.dtype = torch.float32
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "orthogonal": False, "weight_decay": 0.0})
        self.precision = precision

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:  # `_foreach_` does a step for all weights of a list in one call
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if not weights:
                continue
            gradients = [weight.grad for weight in weights]
            for weight in weights:
                if weight not in self.state:
                    self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
            velocities = [self.state[weight]["momentum_buffer"] for weight in weights]
            torch._foreach_mul_(velocities, group["momentum"])
            torch._foreach_add_(velocities, gradients)
            changes = torch._foreach_add(gradients, velocities, alpha=group["momentum"])
            if group["orthogonal"]:
                matrices = [change.flatten(1).to(self.precision) for change in changes]
                changes = [orthogonalize(m).to(c.dtype).view_as(c) for m, c in zip(matrices, changes, strict=True)]
            if group["weight_decay"]:
                torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(weights, changes, alpha=-group["lr"])


def make_optimizer(model: nn.Module, recipe: Recipe, precision: torch.dtype) -> Optimizer:
    """The recipe's optimiser of all weights of `model`; `precision` is the type that its products are computed in."""
    if recipe.optimizer == "adam":
        return Adam(model.parameters(), lr=recipe.learning_rate)
    if recipe.optimizer == "sgd":
        return SGD(model.parameters(), recipe.learning_rate, recipe.momentum, nesterov=recipe.momentum > 0)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    hidden = [parameter for parameter in parameters if parameter.ndim > 1][1:-1]  # not the first and the last layer
    others = [parameter for parameter in parameters if not any(parameter is weight for weight in hidden)]
    groups = [{"params": hidden, "orthogonal": True, "weight_decay": recipe.weight_decay}]
    groups += [{"params": others, "lr": recipe.learning_rate * recipe.others_rate}]
    # float16 has too small a range for the iteration
    precision = torch.bfloat16 if precision == torch.bfloat16 else torch.float32
    return Muon(groups, lr=recipe.learning_rate, momentum=recipe.momentum, precision=precision)


def one_cycle(step: int, steps: int, warm_up: float) -> float:
    """Fraction of the highest learning rate, 0..1, at step 0 ... `steps` - 1: up in a straight line, down in another.

    `warm_up` is the fraction of the steps that goes up. After Smith and Topin, "Super-Convergence", 2017.
    """
    rise = max(1, round(warm_up * steps))
    return min((step + 1) / rise, (steps - step) / (steps - rise + 1))


def make_schedule(optimizer: Optimizer, recipe: Recipe, steps: int) -> LambdaLR | ReduceLROnPlateau:
    """The recipe's learning-rate schedule: "one-cycle" is stepped `steps` times, "plateau" with each epoch's loss."""
    if recipe.schedule == "plateau":
        return ReduceLROnPlateau(optimizer, mode="min", factor=recipe.plateau_factor, patience=recipe.plateau_patience)
    return LambdaLR(optimizer, lambda step: one_cycle(step, steps, recipe.warm_up))
