"""Networks of the frontier suite that are not the zoo's: torchvision's vision transformers with a drawn head."""

from __future__ import annotations

from torch import nn
from torchvision.models import VisionTransformer


def transformer(width: int, heads: int, classes: int) -> nn.Module:
    """A ViT of 16-pixel patches at 224 pixels, 12 blocks (Dosovitskiy et al. 2021): width 192 is Ti, 384 is S.

    torchvision starts the last layer at zero, which hands no error back; here it is normal, 0.02.
    """
    network = VisionTransformer(
        image_size=224,
        patch_size=16,
        num_layers=12,
        num_heads=heads,
        hidden_dim=width,
        mlp_dim=4 * width,
        num_classes=classes,
    )
    head = network.heads[-1]
    if not isinstance(head, nn.Linear):
        raise AssertionError("torchvision's transformer ends in a linear layer")
    nn.init.normal_(head.weight, std=0.02)
    return network
