"""Names in any script: a font that has them where there is one, else a note, and no warnings by the hundred."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, fontManager, get_font

from orchestrator.analysis.summary import summary_lines
from orchestrator.report.figures import fonts
from orchestrator.report.figures.fonts import fonts_for
from orchestrator.report.report import write_report
from tests.support.results_folder import row, trial, write_folder

DEFAULT = "DejaVu Sans"


def only_elsewhere() -> tuple[str, set[str]]:
    """A character that the default font lacks, and the families on this machine that have it."""
    names = {entry.name for entry in fontManager.ttflist}
    has = {
        name: set(get_font(fontManager.findfont(FontProperties(family=[name]))).get_charmap())
        for name in names
    }
    others = {name: known for name, known in has.items() if not name.startswith(fonts._BOXES)}
    code = max(set.union(*others.values()) - others[DEFAULT])
    return chr(code), {name for name, known in others.items() if code in known}


def test_names_of_the_default_font_need_no_other() -> None:
    found = fonts_for(["none", "dp-eps8", "rauschen_ß", "шум"])
    assert (found.families, found.missing, found.note) == ((DEFAULT,), "", "")


def test_a_character_that_another_font_has_is_drawn_with_it() -> None:
    character, families = only_elsewhere()
    found = fonts_for([f"cell {character}"])
    assert found.families[0] == DEFAULT
    assert found.families[1] in families
    assert not found.note
    figure = Figure()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with found.used():
            figure.text(0.5, 0.5, character)
            figure.canvas.draw()


@pytest.mark.parametrize("name", ["差分隐私", "ノイズ", "노이즈"])
def test_a_report_on_names_without_a_font_says_so_and_warns_of_nothing(tmp_path: Path, name: str) -> None:
    lines = summary_lines(write_folder(tmp_path, [trial(row(name, victim)) for victim in (2, 3)]))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        page = write_report(tmp_path, lines).read_text()
    assert not [entry for entry in told if "Glyph" in str(entry.message)]
    missing = fonts_for([name]).missing
    assert ("No font of the machine" in page) == bool(missing)
    assert all(character in page for character in missing)
