"""The map of modules in the docs is what the modules' first lines say."""

from __future__ import annotations

from scripts import module_map


def test_the_map_of_modules_is_up_to_date() -> None:
    assert module_map.PAGE.read_text(encoding="utf-8") == module_map.page(), (
        "run python scripts/module_map.py"
    )


def test_every_first_line_is_one_whole_sentence_or_phrase() -> None:
    cut = [
        line
        for line in module_map.page().splitlines()
        if line.startswith("| [`") and not line.endswith((". |", "`. |"))
    ]
    assert not cut
