"""Synthetic pictures in folders by class, as a user's own would lie."""

from __future__ import annotations

from pathlib import Path

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
