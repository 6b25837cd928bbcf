"""The exercises of the notebooks: each solution is right, each stub is not yet, and a plausible mistake is refused."""

import re
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("0*.ipynb"))


def exercises():
    """(name of the function, its stub, its solution) of each exercise, as they stand in the notebooks."""
    for path in NOTEBOOKS:
        cells = nbformat.read(path, as_version=4).cells
        for task, stub, check in zip(cells, cells[1:], cells[2:], strict=False):
            if task.cell_type == "markdown" and re.match(r"### Exercise \d", task.source):
                solution = re.search(r"Solution</summary>.*?```python\n(.*?)```", task.source, re.S).group(1)
                name = re.fullmatch(r"check\((\w+)\)", check.source.strip()).group(1)
                yield pytest.param(name, stub.source, solution, id=f"{path.stem}-{name}")


def verdict(name, code, capsys):
    """What the check of an exercise prints when the reader's cell holds `code`, and nothing else was run."""
    exec(f"from alexnet_cifar10.notebook.exercises import check\n{code}\ncheck({name})", {})
    return capsys.readouterr().out.strip().splitlines()[-1]


# Mistakes that a reader could make: at least one for each exercise, and wrong ideas that are right in many cases.
WRONG = """
def read_record(record):
    return record[1:].reshape(32, 32, 3)  # as if red, green and blue of a pixel stood side by side
def read_record(record):
    return record[:-1].reshape(3, 32, 32).transpose(1, 2, 0)  # the label is taken for a pixel
def read_record(record):
    return record[1:].reshape(3, 32, 32).transpose(2, 1, 0)  # rows and columns are exchanged
def leaked(train_images, valid_images):
    return int((train_images[: len(valid_images)] == valid_images).all(axis=(1, 2, 3)).sum())
def group_split(groups, fraction):
    cut = round(fraction * len(groups))
    return {"train": list(range(cut, len(groups))), "valid": list(range(cut))}
def group_split(groups, fraction):
    names = list(dict.fromkeys(groups))
    chosen = names[: max(1, round(fraction * len(names)))]
    sides = {"train": [], "valid": []}
    for i, group in enumerate(groups):
        sides["valid" if group in chosen else "train"].append(i)
    return sides
def to_picture(tensor):
    return (tensor.permute(1, 2, 0) * 255).to(torch.uint8).numpy()
def nearest(images, query):
    return int(((images - query) ** 2).sum(axis=(1, 2, 3)).argmin())
def nearest(images, query):
    return abs(images.mean(axis=(1, 2, 3)) - query.mean()).argmin()
def nearest(images, query):
    return int(abs(images.astype(float) - query).sum(axis=(1, 2, 3)).argmin())  # absolute, not squared
def shift_image(image, down, right):
    return torch.roll(image, (down, right), dims=(1, 2))
def output_size(n, kernel, stride, padding):
    return (n + padding - kernel) // stride + 1  # padding on one side only
def output_size(n, kernel, stride, padding):
    return (n + 2 * padding - kernel + 1) // stride
def output_size(n, kernel, stride, padding):
    return (n - kernel) // stride + 1 + 2 * padding
def convolve(image, weight, bias):
    k = weight.shape[-1]
    height, width = image.shape[1] - k + 1, image.shape[2] - k + 1
    result = torch.zeros(len(weight), height, width)
    for row in range(height):
        for column in range(width):
            result[:, row, column] = (image[:, row : row + k, column : column + k] * weight).sum(dim=(1, 2, 3))
    return result  # the bias is forgotten
def find_kernel(images, answers):
    kernel = torch.zeros(1, 1, 3, 3, requires_grad=True)
    for _ in range(1000):
        loss = ((torch.nn.functional.conv2d(images, kernel) - answers) ** 2).mean()
        (gradient,) = torch.autograd.grad(loss, kernel)
        kernel = (kernel - 0.2 * gradient).detach().requires_grad_()
    return {"kernel": kernel.detach()[0, 0].round(decimals=1), "bias": 0.0}  # as if nothing were added
def find_kernel(images, answers):
    kernel = torch.zeros(1, 1, 3, 3, requires_grad=True)
    for _ in range(1000):
        ((torch.nn.functional.conv2d(images, kernel) - answers) ** 2).mean().backward()  # onto the gradients before
        kernel.data -= 0.2 * kernel.grad
    return {"kernel": kernel.detach()[0, 0].round(decimals=1), "bias": 0.0}
def channel_means(features):
    return features.mean(dim=(1, 2))  # over channels and height, not over height and width
def cross_entropy_by_hand(logits, labels):
    probabilities = logits.exp() / logits.exp().sum(dim=1, keepdim=True)  # overflows
    return -probabilities[torch.arange(len(labels)), labels].log().mean()
def stopping_epoch(valid_losses, patience):
    waited = 0
    for epoch in range(1, len(valid_losses)):
        waited = waited + 1 if valid_losses[epoch] > valid_losses[epoch - 1] else 0  # than the epoch before
        if waited > patience:
            return epoch + 1
    return 0
def momentum_step(weight, gradient, velocity, learning_rate, momentum):
    return {"weight": weight - learning_rate * velocity, "velocity": momentum * velocity + gradient}  # the old one
def rate_at(step, peak, warm_up, total):
    return peak * step / warm_up if step < warm_up else peak * (total - step) / total  # from another height
def fit(new_network, images, labels, valid_images, valid_labels, epochs):
    model, losses = new_network(), []
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(epochs):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        losses.append(torch.nn.functional.cross_entropy(model(valid_images), valid_labels).item())
    return {"valid_losses": losses, "best_epoch": epochs}  # without eval(), and the last is not the best
def best_rate(new_network, images, labels, valid_images, valid_labels, rates):
    return {"valid_losses": [1.0 for rate in rates], "best": min(rates)}
def precision(confusion):
    return confusion.diagonal() / confusion.sum(axis=1)  # by rows: that is the recall
def sign_test(right_a, right_b):
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    m, few = only_a + only_b, min(only_a, only_b)
    return sum(math.comb(m, k) for k in range(few + 1)) / 2**m  # one side only
def sure_and_right(x, y, smoothing, steps):
    guesses = torch.full((len(x) - 100, 10), 0.1)  # as if nothing were trained
    return {"accuracy": (guesses.argmax(dim=1) == y[100:]).float().mean().item(), "confidence": guesses.max().item()}
def best_temperature(logits, labels, temperatures):
    return max(temperatures, key=lambda t: ((logits / t).argmax(dim=1) == labels).sum().item())
def strip_prefix(state_dict, prefix):
    return {key.lstrip(prefix): tensor for key, tensor in state_dict.items()}  # letters, not the prefix
def average(a, b):
    return {key: ((a[key] + b[key]) / 2).to(a[key].dtype) for key in a}  # counters as well
def forget(x, y):
    return {"first": (y < 5).float().mean(), "second": (y >= 5).float().mean(), "mean": 1.0}  # thought, not trained
def field_rows(layers, i):
    width, distance, first = 1, 1, 0
    for kernel, stride, padding in layers:
        distance *= stride  # too early: a layer counts in the distances of what it gets
        width, first = width + (kernel - 1) * distance, first + ((kernel - 1) / 2 - padding) * distance
    return first + i * distance - (width - 1) / 2, first + i * distance + (width - 1) / 2
def vote(table, labels, k):
    return torch.nn.functional.one_hot(labels[table.argsort(dim=1)[:, -k:]], 10).sum(dim=1).argmax(dim=1)  # the farthest
def vote(table, labels, k):
    return labels[table.argmin(dim=1)]  # the nearest one alone
def linear_probe(x, labels, new):
    layer = torch.nn.Linear(x.shape[1], 10)
    torch.nn.functional.cross_entropy(layer(x), labels).backward()
    torch.optim.Adam(layer.parameters(), lr=0.01).step()  # one step only
    return layer(new).argmax(dim=1)
def linear_probe(x, labels, new):
    x, new = ((part - x.mean()) / x.std() for part in (x, new))  # one mean for all columns
    layer = torch.nn.Linear(x.shape[1], 10)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.01)
    for _ in range(200):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(layer(x), labels).backward()
        optimizer.step()
    return layer(new).argmax(dim=1)
def linear_probe(x, labels, new):
    x, new = ((part - part.mean(dim=0)) / (part.std(dim=0, correction=0) + 1e-3) for part in (x, new))  # each by its own
    layer = torch.nn.Linear(x.shape[1], 10)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.01)
    for _ in range(200):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(layer(x), labels).backward()
        optimizer.step()
    return layer(new).argmax(dim=1)
def shared_gradient(new_network, images, labels, world):
    model, F = new_network(), torch.nn.functional
    losses = [F.cross_entropy(model(images[rank::world]), labels[rank::world]) for rank in range(world)]
    gradients = torch.autograd.grad(sum(losses) / world, list(model.parameters()))  # as if all shares were equal
    return torch.cat([gradient.flatten() for gradient in gradients])
def speed_up(n, work, fixed, send):
    return (work + fixed) / ((work + fixed) / n + 2 * (n - 1) / n * send)  # as if all could be shared out
"""
MISTAKES = re.split(r"\n(?=def )", WRONG.strip())


def name_of(code):
    return re.search(r"def (\w+)", code)[1]


def test_each_exercise_of_the_notebooks_is_tried_here():
    assert {exercise.values[0] for exercise in exercises()} == set(map(name_of, MISTAKES))


@pytest.mark.parametrize(("name", "stub", "solution"), list(exercises()))
def test_the_solution_passes_and_the_stub_does_not(name, stub, solution, capsys):
    assert verdict(name, solution, capsys) == f"Right: {name} does what it should."
    assert verdict(name, stub, capsys) == f"Not yet: {name} returns nothing so far. (To print is not to return.)"


@pytest.mark.parametrize("code", MISTAKES, ids=name_of)
def test_a_plausible_mistake_is_refused(code, capsys):
    refusal = verdict(name_of(code), f"import math\nimport numpy as np\nimport torch\n{code}", capsys)
    assert refusal.startswith("Not yet: ") and "raised" not in refusal


@pytest.mark.parametrize(
    ("name", "right", "wrong", "told"),
    [
        ("fit", "optimizer.zero_grad()", "...", "gradients add up: zero_grad()"),
        ("fit", "model.eval()", "...", "validate in eval()"),
        ("fit", "model.train()", "...", "After eval(), train() again"),
        ("fit", "losses.index(min(losses)) + 1", "losses.index(min(losses))", "Count from 1"),
        ("fit", "losses.index(min(losses)) + 1", "epochs", "The best epoch has the lowest validation loss"),
        ("best_rate", "model = new_network()", "model = first", "Each rate begins with a new network"),
        ("best_rate", "rates[losses.index(min(losses))]", "min(rates)", "the best rate has the lowest loss"),
        ("best_rate", "model.eval()", "...", "validate in eval()"),
        ("forget", "deepcopy(model.state_dict())", "model.state_dict()", "['first'] gave 0.48"),  # both are the second
        ("forget", "in (y < 5, y >= 5)", "in (y < 5, y >= 0)", "['second'] gave 0.9"),  # nothing is forgotten
        ("forget", "model(x).argmax(dim=1) == y)", "model(x).argmax(dim=1) == y)[y < 5]", "['first'] gave 0.99"),
        ("sure_and_right", "100:]", ":100]", "Ask all digits but the first 100"),
        ("sure_and_right", "s.max(dim=1)", "s[:, 0], probabilities.argmax(dim=1)", "the highest probability"),
        ("sure_and_right", "        weight.grad = None\n", "", "clear the gradient after each"),
        ("sure_and_right", ", label_smoothing=smoothing", "", "give `label_smoothing` to the loss"),
        ("shared_gradient", " * len(y) / len(labels)", "", "the mean of their gradients, not the sum"),
        ("shared_gradient", "len(y) / len(labels)", "1 / world", "each gradient counts by its number of images"),
        ("shared_gradient", "(x), y)", "(images), labels)", "`[rank::world]` goes through the network alone"),
    ],
)
def test_mistakes_in_a_training_are_told_apart(name, right, wrong, told, capsys):
    (solution,) = (exercise.values[2] for exercise in exercises() if exercise.values[0] == name)
    assert right in solution
    code = solution.replace(right, wrong).replace("losses = []", "losses, first = [], new_network()")
    said = verdict(name, code, capsys)
    assert said.startswith(f"Not yet: {name}(") and told in said


def test_a_function_that_changes_its_arguments_is_told_so(capsys):
    updates = "velocity.mul_(momentum).add_(gradient), weight.sub_(learning_rate * velocity)"
    answer = f'{updates}; return {{"weight": weight, "velocity": velocity}}'
    in_place = f"def momentum_step(weight, gradient, velocity, learning_rate, momentum): {answer}"
    assert "changed what it was given" in verdict("momentum_step", in_place, capsys)


def test_a_wrong_type_is_named_without_a_hint_about_values(capsys):
    said = verdict("group_split", "def group_split(groups, fraction): return [2], [0]", capsys)
    assert said.endswith("gave a tuple; return a dictionary with the keys ['train', 'valid'].")


@pytest.mark.parametrize(
    "answer", ["np.array(['a'])", "list('23456789')", "[torch.ones(1, requires_grad=True)]", "10**400"]
)
def test_an_answer_of_quite_another_kind_is_no_error(answer, capsys):
    sides = f'{{"train": {answer}, "valid": [0, 1]}}'
    code = f"import numpy as np, torch\ndef group_split(groups, fraction): return {sides}"
    assert verdict("group_split", code, capsys).startswith("Not yet: group_split(['ann', 'ann'")


def test_another_name_and_an_error_are_said_in_words(capsys):
    assert "no exercise called mine" in verdict("mine", "def mine(): ...", capsys)
    assert "no exercise called [0, 5]" in verdict("answer", "answer = [0, 5]", capsys)
    assert "raised ZeroDivisionError" in verdict("leaked", "def leaked(*_): return 1 / 0", capsys)
