"""A network of a user's own, as a sweep file names it: two convolutions without kinks."""

from __future__ import annotations

from pathlib import Path

from fl_core.base.own_code import OwnCode
from fl_core.models.config import ModelConfig

_CODE = """
from torch import nn


def make(classes=2):
    return nn.Sequential(
        nn.Conv2d(3, 16, 5, stride=2, padding=2), nn.GroupNorm(4, 16), nn.GELU(),
        nn.Conv2d(16, 32, 5, stride=2, padding=2), nn.GELU(), nn.Flatten(), nn.Linear(512, classes),
    )
"""


def gelu_network(folder: Path) -> ModelConfig:
    """Of pictures of 16 pixels, with 512 features for 768 numbers; its file is written into `folder`."""
    (folder / "net.py").write_text(_CODE, encoding="utf-8")
    factory = OwnCode.read("net.py:make", folder, where="model.factory")
    return ModelConfig(kind="own", image_size=16, factory=factory)
