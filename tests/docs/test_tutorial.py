"""docs/tutorial.md, followed to the letter: its files are saved, its scripts and commands run, in its order."""

from __future__ import annotations

import json
import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from tests.support.command import gradsweep
from tests.support.pages import Block, blocks, read

PAGE = "docs/tutorial.md"
STEPS = [block for block in blocks() if block.page == PAGE]
LESS = {
    "sweep": "--address serial --set victims.test=1 --set attackers.1.attack.iterations=3",
    "audit": "--clients 2",
}
"""What the test adds to a command, so that it takes a minute and not ten."""


def file_of(block: Block) -> str | None:
    """The name that the page saves a block under: the last one in the sentences before it."""
    before = read(PAGE).splitlines()[: block.line - 2]
    sentences = " ".join(before[-3:])
    named = re.findall(r"(?:[Ss]ave (?:this|it) as\s+)`([\w.]+)`", sentences)
    return named[-1] if named and block.language in ("python", "yaml") else None


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The reader's folder, from which Python imports as it does for a script there."""
    known = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in set(sys.modules) - known:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", None)):
            del sys.modules[name]


def test_every_python_and_yaml_block_is_a_file() -> None:
    names = [file_of(block) for block in STEPS if block.language in ("python", "yaml")]
    assert None not in names
    assert len(set(names)) == len(names) == 6


@pytest.mark.slow
def test_every_step_works(desk: Path) -> None:
    done = []
    for block in STEPS:
        name = file_of(block)
        if name is not None:
            (desk / name).write_text(block.text, encoding="utf-8")
            if name in ("make_pictures.py", "client.py"):
                runpy.run_path(name, run_name="__main__")
            continue
        for line in block.text.splitlines():
            program, *words = line.split()
            if program == "make":
                continue
            assert program == "gradsweep"
            if "--dry-run" not in words:
                words += LESS.get(words[0], "").split()
            found = gradsweep(*words)
            assert found.returncode == 0, (line, found.stdout, found.stderr)
            done.append(words[0])
    assert done == ["data", "sweep", "sweep", "audit"]

    trials = pd.read_parquet(desk / "results" / "own" / "trials")
    psnr = trials.set_index(["cell", "attacker"])["psnr"]
    assert set(psnr.index) == {(c, a) for c in ("none", "dither") for a in ("auto", "balanced")}
    assert psnr["none", "auto"] > psnr["dither", "auto"] + 3.0, (
        "the page says that dither costs `auto` some dB"
    )
    assert psnr["dither", "auto"] > 20.0, "the page says that most pictures are found all the same"
    answer = json.loads((desk / "audit" / "audit.json").read_text(encoding="utf-8"))
    assert (desk / "audit" / "audit.html").is_file()
    assert answer
