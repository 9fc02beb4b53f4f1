"""Writes docs/sweep-file.md, every key of a sweep file, from the dataclasses that declare them."""

from __future__ import annotations

import argparse
from pathlib import Path

from orchestrator.reference.page import page

PAGE = Path(__file__).resolve().parents[1] / "docs" / "sweep-file.md"


def main() -> None:
    """Write the page."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
