"""Commands in the documentation's shell blocks, parsed as the real command line would parse them and not run."""

from __future__ import annotations

import re
import shlex
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import typer

from orchestrator.cli import arguments, experiment
from orchestrator.cli.main import app
from orchestrator.config.parse import load_sweep
from orchestrator.suites.catalog import suite_of
from tests.support.paths import ROOT

OURS = ("gradsweep", ".venv/bin/gradsweep")
PYTHONS = ("python", ".venv/bin/python")
COMMANDS = (
    "sweep",
    "schema",
    "completion",
    "audit",
    "suite",
    "analyze",
    "report",
    "merge",
    "run",
    "doctor",
    "data",
    "submit",
    "jobs",
    "slurm",
    "status",
    "watch",
    "retry",
    "show",
    "replay",
    "export",
)
PLACEHOLDERS = {"N": "1", "HOST:PORT": "host:6379"}


def commands(text: str) -> list[list[str]]:
    """The words of every command of a block, without comments."""
    found: list[list[str]] = []
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|()")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word and set(word) <= set(";&|()"):
                found += [words] if words else []
                words = []
            else:
                words.append(word)
    return found


def check(words: list[str]) -> bool:
    """Whether a command is one of ours and parses; False for what is not ours. Fails where it does not parse."""
    while words and re.fullmatch(r"\w+=.*", words[0]):
        words = words[1:]
    if not words or words[:2] == ["mkdir", "-p"]:
        return True
    for i, word in enumerate(words):
        if word.startswith("gradsweep ") and " " in word:
            return all(check(inner) for inner in commands(word))
        if word in OURS and words[i + 1 : i + 2] and words[i + 1] in COMMANDS:
            parse(words[i + 1 :])
            return True
        if words[i - 2 : i + 1] == ["run", "--rm", "sweep"] and words[i + 1 :]:
            parse(words[i + 1 :])
            return True
        if word in PYTHONS and words[i + 1 : i + 3] == ["-m", "orchestrator"]:
            parse(words[i + 3 :])
            return True
    suite = re.fullmatch(r"scripts/(run|exp|analyze)_(\w+)\.(?:sh|py)", words[1]) if words[1:] else None
    if suite and words[0] in ("bash", *PYTHONS):
        assert (ROOT / words[1]).is_file(), words
        parse(["analyze" if suite[1] == "analyze" else "suite", suite[2], *words[2:]])
        return True
    if words[0] in PYTHONS and words[1].endswith(".py"):
        check_script(words[1], words[2:])
        return True
    if words[0] == "slurm/local.sh":
        parse(["sweep", words[1], "--out", *words[2:]])
        return True
    if words[0] == "make":
        makefile = (ROOT / "Makefile").read_text().replace("$(VENV)", ".venv")
        targets = [word for word in words[1:] if "=" not in word]
        assert all(re.search(rf"^{re.escape(name)}:", makefile, re.MULTILINE) for name in targets), words
        return True
    if words[0].startswith(".venv/bin/"):
        assert all((ROOT / word).exists() for word in words[1:] if word.endswith(".py")), words
        return True
    return False


def parse(words: list[str]) -> None:
    """Parse a command line of ours; where it names a sweep file that is there, load it with its overrides."""
    given = [PLACEHOLDERS.get(word, word) for word in words]
    if given[0] == "run":
        experiment.parse(given[1:])
        return
    # What a command line names need not be there: it is the reader's own.
    with ExitStack() as unlooked:
        for check in ("check_folder_there", "check_begun", "check_results", "read_sweep_text"):
            unlooked.enter_context(patch.object(arguments, check))
        context = _parsed(given)
    if "name" in context.params and given[0] in ("suite", "analyze"):
        suite_of(context.params["name"]).chosen(context.params.get("mode"))
    file = context.params.get("file")
    if file is not None and (ROOT / file).exists():
        sweep = load_sweep(ROOT / file, context.params.get("override") or [])
        assert sweep.matching_cells(context.params.get("cells") or ["*"])


def _parsed(given: list[str]) -> Any:
    """The context of the command that is called."""
    command: Any = typer.main.get_command(app)
    context = command.make_context("gradsweep", given)
    while hasattr(command, "commands"):
        rest = [*context._protected_args, *context.args]
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)
    return context


def check_script(name: str, arguments: list[str]) -> None:
    """A script of the repository has every flag that it is called with."""
    if name == "run_experiment.py":
        parse(["run", *arguments])
        return
    source = (ROOT / name).read_text(encoding="utf-8")
    flags = [word.partition("=")[0] for word in arguments if word.startswith("--")]
    assert not [flag for flag in flags if f'"{flag}"' not in source], f"{name}: {flags}"
