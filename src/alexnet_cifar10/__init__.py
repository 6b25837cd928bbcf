"""CIFAR-10 with AlexNet in PyTorch: the helpers that the six notebooks import.

Imports run one way, from `training` and `evaluation` down to `environment`. Nothing happens at import.
"""
