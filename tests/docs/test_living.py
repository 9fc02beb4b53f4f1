"""The reading recipes of docs/living.md run: pandas here, DuckDB and polars in an environment of their own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.support.pages import blocks
from tests.support.paths import ROOT
from tests.support.results_folder import row, trial, write_folder

PAGE = "docs/living.md"
RECIPES = {
    library: next(block for block in blocks() if block.page == PAGE and f"import {library}" in block.text)
    for library in ("pandas", "duckdb", "polars")
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two parts, of which the second has a column more, as while a sweep is extended."""
    place = tmp_path / "results" / "quickstart"
    write_folder(place, [trial(row("none", victim, 20.0 + victim)) for victim in (2, 3)])
    write_folder(place, [trial(row("dp", victim, 10.0 + victim)) for victim in (2, 3)])
    (part, other) = sorted((place / "trials").glob("part-*.parquet"))
    pq.write_table(pq.read_table(part).drop_columns(["convergence"]), part)
    assert other.exists()
    return tmp_path


def _printed(python: Path | str, text: str, place: Path) -> str:
    done = subprocess.run(
        [python, "-c", text], capture_output=True, text=True, check=False, cwd=place, timeout=280
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_pandas(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(folder)
    exec(compile(RECIPES["pandas"].text, PAGE, "exec"), {})
    printed = capsys.readouterr().out
    assert "22.5" in printed
    assert "12.5" in printed


@pytest.mark.parametrize("library", ["duckdb", "polars"])
def test_other_readers(library: str, folder: Path) -> None:
    place = os.environ.get("GRADSWEEP_RECIPES")
    python = Path(place or "").resolve() / "readers" / "bin" / "python"
    if not place or not python.exists():
        pytest.skip("GRADSWEEP_RECIPES names no folder with an environment `readers`; see make test-recipes")
    printed = _printed(python, RECIPES[library].text, folder)
    assert "22.5" in printed
    assert "12.5" in printed


def test_each_recipe_reads_the_same_folder() -> None:
    assert (ROOT / PAGE).is_file()
    assert all("results/quickstart/trials/part-*.parquet" in RECIPES[name].text for name in RECIPES)
