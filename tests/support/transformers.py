"""Transformers that are not the zoo's: torchvision's, and one with other positions and no class token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fl_core.base.own_code import OwnCode
from fl_core.models.config import ModelConfig

CODE = """
import torch
from torch import nn
from torchvision.models import VisionTransformer


def torchvision(zero=True, width=32):
    net = VisionTransformer(
        image_size=16, patch_size=4, num_layers=2, num_heads=2, hidden_dim=width, mlp_dim=64, num_classes=2
    )
    if not zero:
        nn.init.normal_(net.heads.head.weight, std=0.02)
    return net


class Mean(nn.Module):
    # Positions of shape (T, D) out of an embedding, no class token, and the mean of all tokens in front of the head.
    def __init__(self, learned, normed, width):
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, stride=4, bias=False)
        self.normed = nn.LayerNorm(width) if normed else nn.Identity()
        self.positions = nn.Embedding(16, width) if learned else None
        self.register_buffer("fixed", torch.arange(16.0 * width).square().sin().view(16, width))
        self.block = nn.TransformerEncoderLayer(width, 2, 64, batch_first=True, dropout=0.0)
        self.head = nn.Linear(width, 2)

    def forward(self, images):
        tokens = self.normed(self.patches(images).flatten(2).mT)
        tokens = tokens + (self.fixed if self.positions is None else self.positions.weight)
        return self.head(self.block(tokens).mean(1))


class Narrow(nn.Module):
    # As many outputs of the first layer of tokens as there are tokens.
    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 96, 4, stride=4)
        self.register_buffer("fixed", torch.arange(16.0 * 96).square().sin().view(16, 96))
        self.mixed, self.head = nn.Linear(96, 16), nn.Linear(16, 2)

    def forward(self, images):
        return self.head(self.mixed(self.patches(images).flatten(2).mT + self.fixed).tanh().mean(1))


def mean(learned=True, normed=False, width=32):
    return Mean(learned, normed, width)
"""


def own(tmp_path: Path, name: str, **settings: Any) -> ModelConfig:
    (tmp_path / "nets.py").write_text(CODE, encoding="utf-8")
    code = OwnCode.read(f"nets.py:{name}", tmp_path, where="model.factory")
    config: dict[str, Any] = {"kind": "own", "image_size": 16, "factory": code}
    return ModelConfig(**(config | settings))
