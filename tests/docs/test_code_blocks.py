"""Every block of code in the documentation runs in a test, or says why none runs it; commands are parsed besides."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from orchestrator.config.parse import load_sweep
from orchestrator.config.plain_yaml import read_yaml
from tests.support.pages import NAMED_PAGES, OWN_TEST, Block, blocks, indented_commands, read
from tests.support.paths import ROOT
from tests.support.shell import check, commands

BLOCKS = blocks()
LANGUAGES = {"python", "yaml", "sh", "text", ""}
ELSEWHERE = {
    "docs/results.md": "tests/test_docs.py",
    "docs/adding.md": "tests/docs/test_adding.py",
    "docs/tutorial.md": "tests/docs/test_tutorial.py",
    "docs/living.md": "tests/docs/test_living.py",
}
"""Pages whose Python, and YAML that needs it, other tests run in its context."""
MARKED = 58
"""So many blocks need hours, another machine or a library that is no dependency; each says which."""


def of(*languages: str) -> list[Block]:
    return [block for block in BLOCKS if block.language in languages]


def test_every_block_has_a_language_that_is_tested() -> None:
    assert {block.language for block in BLOCKS} <= LANGUAGES


def test_as_many_blocks_are_marked_as_are_meant_to_be() -> None:
    assert len([block for block in BLOCKS if block.not_run]) == MARKED


@pytest.mark.parametrize("page", NAMED_PAGES)
def test_commands_stand_in_fences(page: str) -> None:
    assert not indented_commands(page)


@pytest.mark.parametrize(
    "block", [block for block in of("sh") if block.page not in OWN_TEST], ids=lambda block: block.name
)
def test_commands_parse(block: Block) -> None:
    foreign = [words for words in commands(block.text) if not check(words)]
    assert not foreign or block.not_run, f"{block.name}: mark the block, or take out {foreign}"


@pytest.mark.parametrize("page", NAMED_PAGES)
def test_commands_in_sentences_parse(page: str) -> None:
    prose = re.sub(r"^```.*?^```$", "", read(page), flags=re.DOTALL | re.MULTILINE)
    for text in re.findall(r"`((?:gradsweep \w+ sweeps/|python (?:benchmarks|scripts)/)[^`]+)`", prose):
        for words in commands(re.sub(r"\s+", " ", text)):
            assert check(words), f"{page}: {text}"


@pytest.mark.parametrize(
    "block", [block for block in of("yaml") if block.page not in ELSEWHERE], ids=lambda block: block.name
)
def test_settings_are_those_of_a_sweep_file(block: Block, tmp_path: Path) -> None:
    """A fragment takes the place of the same keys in the quickstart."""
    whole = read_yaml((ROOT / "sweeps" / "quickstart.yaml").read_text(encoding="utf-8"), where="quickstart")
    part = read_yaml(block.text, where=block.name)
    assert isinstance(whole, dict)
    assert isinstance(part, dict)
    (tmp_path / "sweep.yaml").write_text(json.dumps(whole | part))
    for scale in ["", *part.get("scales", {})]:
        assert load_sweep(tmp_path / "sweep.yaml", [f"scale={scale}"] if scale else [])


@pytest.mark.parametrize(
    "block", [block for block in of("python") if block.page not in ELSEWHERE], ids=lambda block: block.name
)
def test_python_runs(block: Block) -> None:
    """A journal that our own sweep wrote stands in the place of the reader's."""
    journal = ROOT / "tests" / "compatibility" / "results" / "optuna.journal"
    text = block.text.replace("results/quickstart/optuna.journal", str(journal))
    text = text.replace("quickstart/none/generic", "old/none/generic")
    exec(compile(text, block.name, "exec"), {})


@pytest.mark.parametrize(("page", "test"), ELSEWHERE.items())
def test_other_tests_run_the_python_of_these_pages(page: str, test: str) -> None:
    assert Path(page).name in (ROOT / test).read_text(encoding="utf-8")
