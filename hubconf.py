"""`torch.hub.load("<owner>/<name>", "alexnet")` from GitHub; `torch.hub.load(".", "alexnet", source="local")` here."""

import sys
from pathlib import Path

dependencies = ["torch", "safetensors"]


def alexnet(pretrained: bool = True):
    """AlexNet for images [N, 3, 32, 32] in 0..1, in `eval()` mode; `pretrained`: with the weights of weights/."""
    here = Path(__file__).parent
    sys.path.insert(0, str(here / "src"))
    from alexnet_cifar10.model import AlexNet
    from safetensors.torch import load_file

    model = AlexNet()
    if pretrained:
        model.load_state_dict(load_file(here / "weights" / "fast-long.safetensors"))
    return model.eval()
