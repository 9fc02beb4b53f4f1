"""Writes the tables of columns in docs/results.md from their declaration, `orchestrator/results/columns.py`."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from orchestrator.results.columns import TABLES, markdown

PAGE = Path(__file__).resolve().parents[1] / "docs" / "results.md"


def with_tables(page: str) -> str:
    """The page with the table of columns under each heading put in anew."""
    for heading, columns in TABLES.items():
        found = re.search(rf"^## {heading}\n(?:(?!^## ).*\n)*?(?=\|)", page, re.MULTILINE)
        if found is None:
            raise SystemExit(f"{PAGE} has no table under the heading {heading!r}.")
        start = found.end()
        end = page.index("\n\n", start)
        page = page[:start] + markdown(columns) + page[end:]
    return page


def main() -> None:
    """Write the page."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
