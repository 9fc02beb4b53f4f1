"""What cannot be shown never ends a command that has work to do."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from rich.table import Table

from orchestrator.runtime.terminal import Outlet, console
from tests.support.paths import ROOT
from tests.support.results_folder import row, trial, write_folder

MARKUP = ["run[final]", "x[/bold]y", "[red]", ":smile:", "a\\[b]"]


@pytest.mark.parametrize("columns", ["0", "1", "39", "200"])
def test_names_that_look_like_markup_are_printed_as_they_are(
    columns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    told = io.StringIO()
    with redirect_stdout(told):
        shown = Table("name", title="x[/bold]y")
        for text in MARKUP:
            shown.add_row(text)
            console().print(text, soft_wrap=True)
        console().print(shown)
    for text in MARKUP:
        assert told.getvalue().count(text) == 2 + (text == "x[/bold]y")


def test_an_outlet_drops_what_is_not_taken_and_says_why() -> None:
    full = Outlet(os.open("/dev/full", os.O_WRONLY))
    assert full.write(b"text") == 4
    assert full.refusal == "No space left on device"
    reader, writer = os.pipe()
    os.close(reader)
    closed = Outlet(writer)
    assert [closed.write(b"text"), closed.write(b"more")] == [4, 4]
    assert closed.refusal is None, "nobody wanted to read on"


COMMANDS = """
import os, sys
from orchestrator.cli.main import main

def code(command, descriptor, encoding):
    sys.stdout, sys.argv = None, ["gradsweep", *command]
    if descriptor is not None:
        os.dup2(descriptor, 1)
        sys.stdout = open(1, "w", closefd=False, encoding=encoding)
    try:
        main()
    except SystemExit as ended:
        return ended.code

ascii = os.dup(1)
reader, closed = os.pipe()
os.close(reader)
report = ["report", sys.argv[1]]
codes = [
    code(report, os.open("/dev/full", os.O_WRONLY), "utf-8"),
    code(report, closed, "utf-8"),
    code(report, None, None),
    code(report, ascii, "ascii"),
]
sys.stderr.write(f"{codes}\\n")
"""


@pytest.mark.slow
def test_a_report_is_written_whatever_becomes_of_its_text(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "gesicht-ß-日[final]", [trial(row())])
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, str(folder)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "0"},
    )
    said = done.stderr.splitlines()
    assert said == [
        "gradsweep: Standard output took no more (No space left on device); what was written to files is whole.",
        "[2, 0, 0, 0]",
    ], done.stderr
    assert "gesicht-\\xdf-\\u65e5[final]" in done.stdout.replace("\n", "")
    assert "none / generic" in done.stdout
    assert (folder / "report.html").is_file()
