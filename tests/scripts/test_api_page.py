"""docs/api.md is what the docstrings of the library's names say."""

from __future__ import annotations

import gradsweep
from scripts import api_page


def test_the_page_is_current() -> None:
    assert api_page.PAGE.read_text(encoding="utf-8") == api_page.page(), "run python scripts/api_page.py"


def test_every_stable_name_has_a_section_and_a_docstring() -> None:
    page = api_page.page()
    for name in gradsweep.__all__:
        _, found, section = page.partition(f"\n## {name}\n")
        assert found, name
        assert len(section.split("\n## ")[0].split()) > 8, f"{name} has no docstring"
