"""AlexNet for 32x32 images, with the names and shapes of the original tutorial's class.

Source of the architecture: the tutorial that this repository ports, itself after Krizhevsky, Sutskever and
Hinton, "ImageNet Classification with Deep Convolutional Neural Networks", NeurIPS 2012: five convolution blocks,
smaller kernels and strides because the images are 32x32 and not 224x224, and batch normalisation.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class AlexNet(nn.Module):
    """Five convolution blocks and two linear layers: float images [N, 3, 32, 32] -> logits [N, 10].

    4 510 794 parameters in a `state_dict` of 44 keys. Dropout has no parameters, so its five rates change no key.
    `dropout`: the shares, 0..1, that are dropped in blocks 3, 4 and 5, before `linear1` and after it.
    The original drops with `F.dropout(x, p)`, which stays on at test time; here it is a module, off in `eval()`.
    """

    def __init__(self, dropout: tuple[float, float, float, float, float] = (0.1, 0.3, 0.1, 0.3, 0.1)) -> None:
        super().__init__()
        self.conv_block1 = nn.Sequential(
            nn.Conv2d(3, 96, kernel_size=3, padding=1),  # [N, 96, 32, 32]
            nn.BatchNorm2d(96),
            nn.ReLU(),
            nn.MaxPool2d(kernel_size=3, stride=2),  # [N, 96, 15, 15]
        )
        self.conv_block2 = nn.Sequential(
            nn.Conv2d(96, 256, kernel_size=3, padding=1),  # [N, 256, 15, 15]
            nn.BatchNorm2d(256),
            nn.ReLU(),
            nn.MaxPool2d(kernel_size=3, stride=2),  # [N, 256, 7, 7]
        )
        self.conv_block3 = nn.Sequential(
            nn.Conv2d(256, 384, kernel_size=3, padding=1),  # [N, 384, 7, 7]
            nn.BatchNorm2d(384),
            nn.Dropout(dropout[0]),
            nn.ReLU(),
        )
        self.conv_block4 = nn.Sequential(
            nn.Conv2d(384, 384, kernel_size=3, padding=1),  # [N, 384, 7, 7]
            nn.BatchNorm2d(384),
            nn.Dropout(dropout[1]),
            nn.ReLU(),
        )
        self.conv_block5 = nn.Sequential(
            nn.Conv2d(384, 256, kernel_size=3, padding=1),  # [N, 256, 7, 7]
            nn.BatchNorm2d(256),
            nn.Dropout(dropout[2]),
            nn.ReLU(),
            nn.MaxPool2d(kernel_size=3, stride=2),  # [N, 256, 3, 3]
        )
        self.dropout1 = nn.Dropout(dropout[3])
        self.linear1 = nn.Linear(256 * 3 * 3, 512)
        self.batch_norm = nn.BatchNorm1d(512)
        self.dropout2 = nn.Dropout(dropout[4])
        self.linear2 = nn.Linear(512, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv_block1(images)
        x = self.conv_block2(x)
        x = self.conv_block3(x)
        x = self.conv_block4(x)
        x = self.conv_block5(x)
        x = self.dropout1(torch.flatten(x, 1))  # [N, 2304]
        x = torch.relu(self.dropout2(self.batch_norm(self.linear1(x))))  # [N, 512]
        return self.linear2(x)


@torch.no_grad()
def whiten(model: nn.Module, images: Tensor) -> None:
    """Whitening: filters of the first convolution that make patches of `images` (uint8 [N, H, W, 3]) uncorrelated.

    A patch is 3x3 pixels in three colours: 27 numbers. Its principal directions (brightness, edges, colours, ...) and
    their negatives, as ReLU keeps one side only, are the first 54 filters. The others are random mixtures of the
    directions, each divided by its standard deviation. All keep the lengths that they had: BatchNorm undoes lengths.
    After Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024. Raises `ValueError` for a model without one.
    """
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    if not convolutions:
        raise ValueError("whitening = True: this model has no convolution to whiten; replace it by False.")
    weight = convolutions[0].weight  # [96, 3, 3, 3]
    pixels = images.permute(0, 3, 1, 2).cpu().double()
    patches = F.unfold(pixels, weight.shape[2:]).transpose(0, 1).flatten(1)  # [27, patches]
    variances, directions = torch.linalg.eigh(torch.cov(patches))  # [27] and, as columns, [27, 27]
    old = weight.flatten(1).cpu().double()  # [96, 27]
    mixtures = old / variances.clamp(min=1 / 12).sqrt() @ directions.T  # 1 / 12: what rounding to whole levels adds
    filters = torch.cat([directions.T, -directions.T, mixtures])[: len(old)]
    weight.copy_((F.normalize(filters) * old.norm(dim=1, keepdim=True)).view_as(weight))
