"""The version, the schema, and completion as a real shell asks for it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cli.shell import version_line
from orchestrator.reference.schema import sweep_schema
from tests.support.command import gradsweep, refused
from tests.support.paths import ROOT


def test_the_version_with_the_commit_where_it_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    done = gradsweep("--version", GIT_COMMIT="feed" * 10)
    assert done.returncode == 0
    assert re.fullmatch(rf"gradsweep \S.* \(commit {'feed' * 10}\)\n", done.stdout)
    monkeypatch.setattr("orchestrator.cli.shell.provenance", lambda: {"git_commit": None})
    assert "commit" not in version_line()


@pytest.mark.slow
def test_the_schema_is_printed_or_written(tmp_path: Path) -> None:
    assert json.loads(gradsweep("schema").stdout) == sweep_schema()
    assert gradsweep("schema", "--out", tmp_path / "schema.json").returncode == 0
    assert json.loads((tmp_path / "schema.json").read_text()) == sweep_schema()
    refused(gradsweep("schema", "--out", tmp_path / "absent" / "schema.json"), "absent")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_a_script(shell: str) -> None:
    done = gradsweep("completion", shell)
    assert done.returncode == 0
    assert f"_GRADSWEEP_COMPLETE=complete_{shell}" in done.stdout
    program = shutil.which(shell)
    if program:
        subprocess.run([program, "-n"], input=done.stdout, text=True, check=True, timeout=60)


def test_a_shell_that_there_is_no_script_for() -> None:
    refused(gradsweep("completion", "tcsh"), "tcsh", "bash")


@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash to ask")
@pytest.mark.parametrize(
    ("words", "offered", "others"),
    [
        ("gradsweep sw", {"sweep"}, {"report"}),
        ("gradsweep sweep --dr", {"--dry-run"}, {"--address"}),
        ("gradsweep data ", {"check", "synth"}, {"sweep"}),
        ("gradsweep completion ", {"bash", "zsh", "fish"}, {"sweep"}),
    ],
)
def test_bash_completes(words: str, offered: set[str], others: set[str], tmp_path: Path) -> None:
    program = tmp_path / "gradsweep"
    program.write_text(f"#!{sys.executable}\nfrom orchestrator.cli.start import main\nmain()\n")
    program.chmod(0o755)
    script = f"""
{gradsweep("completion", "bash").stdout}
COMP_WORDS=({words.removesuffix(" ")}{" ''" if words.endswith(" ") else ""})
COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))
_gradsweep_completion gradsweep
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=200, check=True
    )
    found = set(done.stdout.split())
    assert offered <= found, done.stderr
    assert not others & found
