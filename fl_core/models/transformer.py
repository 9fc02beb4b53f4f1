"""A small vision transformer (Dosovitskiy et al. 2021, arXiv:2010.11929) made of linear layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fl_core.base.shape import ImageShape
from fl_core.models.config import TransformerConfig


class Tokens(nn.Module):
    """From patches (N, T, I) to tokens (N, 1 + T, I): a class token in front, and a learned position added to each."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.empty(1, 1, width))
        self.positions = nn.Parameter(torch.empty(1, 1 + count, width))

    def forward(self, patches: Tensor) -> Tensor:
        """See the class."""
        first = self.first.expand(len(patches), -1, -1)
        return torch.cat([first, patches], dim=1) + self.positions


class Patches(nn.Module):
    """From images (N, C, H, W) to tokens' inputs (N, T, C patch patch), row by row."""

    def __init__(self, patch: int) -> None:
        super().__init__()
        self.patch = patch

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        side = self.patch
        tiles = images.unflatten(3, (-1, side)).unflatten(2, (-1, side))
        tokens: Tensor = tiles.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        return tokens


class Attention(nn.Module):
    """Self-attention of several heads, (N, T, I) to (N, T, I), written out so that every step has two derivatives."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """See the class."""
        q, k, v = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(dim=-1)
        found: Tensor = self.out((weights @ v).transpose(1, 2).flatten(2))
        return found


class Block(nn.Module):
    """One block: attention, then two linear layers with a GELU, each behind a LayerNorm and beside a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """See the class."""
        tokens = tokens + self.attention(self.norm1(tokens))
        found: Tensor = tokens + self.down(nn.functional.gelu(self.up(self.norm2(tokens))))
        return found


class VisionTransformer(nn.Module):
    """Images (N, C, H, W) to logits (N, classes), read off the class token."""

    def __init__(self, config: TransformerConfig, shape: ImageShape, classes: int) -> None:
        super().__init__()
        count = (shape.height // config.patch) * (shape.width // config.patch)
        self.patches = Patches(config.patch)
        self.embedding = nn.Linear(shape.channels * config.patch**2, config.width)
        self.tokens = Tokens(count, config.width)
        self.blocks = nn.Sequential(*(Block(config.width, config.heads) for _ in range(config.depth)))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        tokens = self.blocks(self.tokens(self.embedding(self.patches(images))))
        logits: Tensor = self.head(self.norm(tokens)[:, 0])
        return logits
