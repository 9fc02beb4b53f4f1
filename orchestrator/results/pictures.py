"""Stored pictures as arrays."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image


def decode(picture: Mapping[str, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A picture of a results folder, stored as PNG, as an array (H, W, 3)."""
    return np.asarray(Image.open(io.BytesIO(picture["bytes"])).convert("RGB"))
