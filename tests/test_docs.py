"""The documentation names every column that the code writes, and nothing that it does not."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from defenses.mechanism.noise import NoiseOnly
from orchestrator.analysis.strength import Curve, critical_frame, critical_strengths
from orchestrator.analysis.summary import summarize
from orchestrator.config.scale import Strength
from orchestrator.config.sweep import HalvingConfig, StudyConfig, ThresholdConfig
from orchestrator.results import schema
from orchestrator.results.columns import SUMMARY, TABLES, THRESHOLDS, UTILITY, markdown
from orchestrator.results.utility_files import UtilityResult
from tests.support.paths import ROOT
from tests.support.results_folder import row, suggestion, trial, write_folder

RESULTS = ROOT / "docs" / "results.md"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md")])
# Spelled in two parts, so that this file does not hold what it forbids.
LOCAL_PATHS = ("/wo" + "rk/", "/tmp" + "/bash")


def sections() -> dict[str, str]:
    """The text under each heading of the second level."""
    parts = re.split(r"^## (.+)$", RESULTS.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A results folder with a study, pictures, two cells and an accuracy."""
    tests = [
        trial(row(cell, victim, suggestion=0, trial_id=""), pictures=True)
        for cell in ("none", "dp")
        for victim in (2, 3)
    ]
    asked = [suggestion(0, 12.0, f"{cell}/generic", lr=0.1) for cell in ("none", "dp")]
    return write_folder(tmp_path, tests, suggestions=asked, utility={"none": {}})


@pytest.mark.parametrize("heading", list(TABLES))
def test_columns_are_documented_as_they_are_declared(heading: str) -> None:
    assert markdown(TABLES[heading]) in sections()[heading], "run scripts/column_tables.py"


def test_hyperparameter_columns_are_documented() -> None:
    assert f"`{schema.hp_column('objective.kind')}`" in sections()["Trials"]


def test_the_summary_has_the_declared_columns(folder: Path) -> None:
    assert list(summarize(folder).columns) == [column.name for column in SUMMARY]


def test_utility_results_have_the_declared_keys() -> None:
    assert [column.name for column in UTILITY] == [field.name for field in dataclasses.fields(UtilityResult)]


def test_study_settings_are_documented_with_their_defaults() -> None:
    page = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| `?([^|`]+)`? \|", page, re.MULTILINE)
    expected = [
        (field.name, _as_written(field.default))
        for settings in (StudyConfig, HalvingConfig)
        for field in dataclasses.fields(settings)
    ]
    assert rows == expected


def _as_written(value: object) -> str:
    """A default as a sweep file would have it."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(str, value))}]"
    return "null" if value is None else str(value)


def test_examples_run(folder: Path) -> None:
    """Every Python block of the page, in order, on a small folder; `datasets` is no dependency of ours."""
    page = RESULTS.read_text(encoding="utf-8")
    code = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    ours = [block for block in code if "from datasets" not in block]
    assert len(ours) == len(code) - 1 >= 4
    text = "\n".join(ours)
    assert 'Path("results/quickstart")' in text
    text = text.replace('Path("results/quickstart")', f"Path({str(folder)!r})")
    exec(compile(text, str(RESULTS), "exec"), {})


def test_links_point_to_files() -> None:
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in PAGES
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
        if not re.match(r"[a-z]+:|#", target) and not (page.parent / target.partition("#")[0]).exists()
    ]
    assert not broken


def test_pages_name_no_path_of_one_machine() -> None:
    found = [
        f"{page.relative_to(ROOT)}:{number}: {path}"
        for page in PAGES
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1)
        for path in LOCAL_PATHS
        if path in line
    ]
    assert PAGES
    assert not found


def test_pictures_of_defenses_exist_and_are_shown() -> None:
    """Every picture that a page names exists, and no strip lies there unshown."""
    named = {
        (page.parent / target).resolve()
        for page in PAGES
        for target in re.findall(r"[\w./-]+\.png", page.read_text(encoding="utf-8"))
        if target.startswith(("images/", "../images/", "docs/images/"))
    }
    strips = {path.resolve() for path in (ROOT / "docs" / "images" / "defenses").glob("*.png")}
    assert strips
    assert not [str(path) for path in named if not path.exists()]
    assert strips <= named


def test_critical_strengths_have_the_declared_columns() -> None:
    threshold = ThresholdConfig(
        name="noise",
        defense=(NoiseOnly(),),
        strength=Strength(path="defense.0.sigma", weak=1e-3, strong=1e-1, points=2),
    )
    curve = Curve(
        attacker="auto",
        values=(1e-3, 1e-1),
        measured={"gain": np.array([[9.0, 0.0]]), "success": np.array([[1.0, 0.0]])},
        images=1,
        accuracy=(0.9, 0.8),
    )
    assert [column.name for column in THRESHOLDS] == list(
        critical_frame(critical_strengths(threshold, [curve])).columns
    )
