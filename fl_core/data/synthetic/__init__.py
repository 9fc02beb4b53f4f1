"""Synthetic portraits: who is shown, how they are painted, and the data set that they are written to."""

from __future__ import annotations

from fl_core.data.synthetic.faces import unwritten_faces, write_faces

__all__ = [
    "unwritten_faces",
    "write_faces",
]
