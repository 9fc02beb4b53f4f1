"""How a picture comes to the size that a network takes, in a sweep file's words."""

from __future__ import annotations

from typing import Literal

Resize = Literal["crop", "stretch", "none"]
"""How a picture comes to the size that is asked for.

- `crop`: scaled until it covers the size, then the centre is cut out.
- `stretch`: scaled to the size, whatever that does to its proportions.
- `none`: it must have the size already.
"""
