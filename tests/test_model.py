"""The model is the original tutorial's: its shapes, its keys, its logits; only dropout knows when it is the test."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from alexnet_cifar10.model import AlexNet, whiten
from alexnet_cifar10.runs.files import load_checkpoint, save_checkpoint

BLOCK_CHANNELS = [(3, 96), (96, 256), (256, 384), (384, 384), (384, 256)]
POOLED_BLOCKS = (1, 2, 5)
BLOCK_DROPOUT = {3: 0.1, 4: 0.3, 5: 0.1}


class OriginalAlexNet(nn.Module):
    """The original tutorial's class, from its description: outside of the blocks, dropout is never off."""

    def __init__(self):
        super().__init__()
        for number, (inputs, outputs) in enumerate(BLOCK_CHANNELS, start=1):
            layers = [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs)]
            if number in BLOCK_DROPOUT:
                layers.append(nn.Dropout(BLOCK_DROPOUT[number]))
            layers.append(nn.ReLU())
            if number in POOLED_BLOCKS:
                layers.append(nn.MaxPool2d(3, stride=2))
            self.add_module(f"conv_block{number}", nn.Sequential(*layers))
        self.linear1 = nn.Linear(256 * 3 * 3, 512)
        self.batch_norm = nn.BatchNorm1d(512)
        self.linear2 = nn.Linear(512, 10)

    def forward(self, x):
        for number in range(1, 6):
            x = self.get_submodule(f"conv_block{number}")(x)
        x = F.dropout(x.flatten(1), 0.3)
        x = F.dropout(self.batch_norm(self.linear1(x)), 0.1)
        return self.linear2(x.relu())


@pytest.fixture
def images(digits):
    return torch.stack([digits.train[i][0] for i in range(4)])


@pytest.fixture
def trained_a_little(images):
    """A model whose running means are not those of a new one, so that eval() mode has something to show."""
    torch.manual_seed(1)
    model = AlexNet().train()
    with torch.no_grad():
        model(images)
    return model


def test_shape_after_every_block(images):
    model, shapes, x = AlexNet(), [], images
    for block in (model.conv_block1, model.conv_block2, model.conv_block3, model.conv_block4, model.conv_block5):
        x = block(x)
        shapes.append(tuple(x.shape))
    assert shapes == [(4, 96, 15, 15), (4, 256, 7, 7), (4, 384, 7, 7), (4, 384, 7, 7), (4, 256, 3, 3)]
    assert model.linear1(x.flatten(1)).shape == (4, 512)
    assert model(images).shape == (4, 10)


def test_44_keys_with_the_originals_names_and_shapes():
    ours, original = AlexNet().state_dict(), OriginalAlexNet().state_dict()
    assert list(ours) == list(original)
    assert len(ours) == 44
    assert all(ours[key].shape == original[key].shape for key in ours)


def test_number_of_parameters():
    assert sum(parameter.numel() for parameter in AlexNet().parameters()) == 4_510_794


def test_dropout_stands_where_the_original_has_it():
    """Each layer by its type and rate: the keys alone do not show it, since dropout has no parameters."""

    def layers(model):
        return [
            (type(layer).__name__, getattr(layer, "p", None))
            for number in range(1, 6)
            for layer in model.get_submodule(f"conv_block{number}")
        ]

    ours = AlexNet()
    assert layers(ours) == layers(OriginalAlexNet())
    assert (ours.dropout1.p, ours.dropout2.p) == (0.3, 0.1)


def test_the_originals_class_loads_our_file_and_ours_loads_its_file(tmp_path, trained_a_little):
    save_checkpoint(trained_a_little.state_dict(), tmp_path / "ours.pth")
    original = OriginalAlexNet()
    original.load_state_dict(torch.load(tmp_path / "ours.pth"), strict=True)
    torch.save(original.state_dict(), tmp_path / "its.pth")
    AlexNet().load_state_dict(load_checkpoint(tmp_path / "its.pth"), strict=True)


def test_same_weights_give_the_originals_logits_once_its_dropout_is_off(images, trained_a_little, monkeypatch):
    original = OriginalAlexNet()
    original.load_state_dict(trained_a_little.state_dict())
    with torch.inference_mode():
        ours = trained_a_little.eval()(images)
        assert not torch.equal(original.eval()(images), ours), "the original drops at test time too"
        monkeypatch.setattr(F, "dropout", lambda x, *rate, **options: x)
        assert torch.equal(original(images), ours)


def test_same_random_numbers_drop_what_the_original_drops(images, trained_a_little):
    original = OriginalAlexNet().train()
    original.load_state_dict(trained_a_little.state_dict())
    with torch.no_grad():
        torch.manual_seed(5)
        ours = trained_a_little.train()(images)
        torch.manual_seed(5)
        assert torch.equal(original(images), ours)


def test_whitened_filters_are_principal_directions_their_negatives_and_mixtures_that_all_directions_share():
    generator = torch.Generator().manual_seed(0)
    coarse = 255 * torch.rand(40, 3, 8, 8, generator=generator)
    images = F.interpolate(coarse, 32, mode="bilinear").add(8 * torch.rand(40, 3, 32, 32, generator=generator))
    images = images.clamp(0, 255).byte().permute(0, 2, 3, 1)  # neighbours are alike, as in photographs
    model = AlexNet()
    old = model.conv_block1[0].weight.detach().flatten(1).clone()
    whiten(model, images)
    new = model.conv_block1[0].weight.detach().flatten(1)
    torch.testing.assert_close(new.norm(dim=1), old.norm(dim=1))
    unit = F.normalize(new)
    patches = F.unfold(images.permute(0, 3, 1, 2).float(), 3).transpose(0, 1).flatten(1)
    seen = torch.cov(unit[:27] @ patches)
    deviations = seen.diagonal().sqrt()
    assert (deviations.max() / deviations.min()) > 10, "the patches vary in some directions more than in others"
    torch.testing.assert_close(seen / deviations / deviations[:, None], torch.eye(27), atol=0.01, rtol=0)
    torch.testing.assert_close(unit[27:54], -unit[:27])
    shares = (unit[54:] @ unit[:27].T * deviations).abs()  # what each direction brings to each mixture
    torch.testing.assert_close(F.normalize(shares), F.normalize(old[:42].abs()), atol=0.01, rtol=0)


def test_whitening_stays_finite_where_all_colours_are_the_same(digits):
    model = AlexNet()
    whiten(model, torch.from_numpy(digits.train.data[:50]))
    assert model.conv_block1[0].weight.isfinite().all() and model.conv_block1[0].weight.std() > 0.05


def test_a_model_without_a_convolution_cannot_be_whitened(digits):
    with pytest.raises(ValueError, match="whitening = True: this model has no convolution"):
        whiten(nn.Linear(3072, 10), torch.from_numpy(digits.train.data[:50]))


def test_logits_are_equal_twice_in_eval_and_different_in_train(images, trained_a_little):
    with torch.no_grad():
        trained_a_little.eval()
        assert torch.equal(trained_a_little(images), trained_a_little(images))
        trained_a_little.train()
        assert not torch.equal(trained_a_little(images), trained_a_little(images))
