"""Synthetic pictures in folders by class, as a user's own would lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from orchestrator.calibration.pictures import synthetic_pictures
from orchestrator.library.images import ImageSpec


def write_pictures(folder: Path, count: int, *, side: int = 32, classes: int = 10) -> Path:
    """So many PNGs in `folder`/class0 and so on, class by class in turn; the folder."""
    for i, picture in enumerate(synthetic_pictures(ImageSpec(height=side, width=side), count).images):
        path = folder / f"class{i % classes}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((picture.permute(1, 2, 0) * 255).round().byte().numpy()).save(path)
    return folder


def smooth_picture(index: int, height: int, width: int, channels: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A picture with coarse structure alone, as photographs have most of it."""
    coarse = np.random.default_rng(index).integers(0, 256, (4, 4, channels), dtype=np.uint8)
    image = Image.fromarray(coarse[..., 0] if channels == 1 else coarse)
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))


def class_folders(root: Path, *, classes: int = 3) -> dict[str, Any]:
    """Sixty pictures of 40 x 32 in folders by class; the data of a sweep on them."""
    for index in range(60):
        folder = root / f"class{index % classes}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(smooth_picture(index, 40, 32, 3)).save(folder / f"{index}.png")
    return {"kind": "folder", "root": str(root)}
