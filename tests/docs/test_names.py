"""What the pages name is there: files, modules, sections, and pages in the indexes."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from tests.support.pages import NAMED_PAGES, read
from tests.support.paths import ROOT

PACKAGES = ("fl_core", "defenses", "attack_core", "orchestrator", "gradsweep")
FOLDERS = (*PACKAGES, "tests", "scripts", "benchmarks", "sweeps", "slurm", "docker", "docs", "requirements")
EXAMPLES = {
    "attack_core/attacks/blank.py",
    *("my_net.py", "my_defense.py", "my_attack.py", "my_objective.py", "my_parts.py"),
    *("make_pictures.py", "client.py"),
}
"""What a page tells the reader to write."""


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    heads = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("name", NAMED_PAGES)
def test_links_lead_to_sections_that_are_there(name: str) -> None:
    page = ROOT / name
    for target in re.findall(r"\]\(([^)\s]+)\)", read(name)):
        path, _, section = target.partition("#")
        if section and not re.match(r"[a-z]+:", target):
            there = (page.parent / path).resolve() if path else page
            assert section in anchors(there), f"{name}: {target}"


@pytest.mark.parametrize("name", NAMED_PAGES)
def test_paths_of_files_are_there(name: str) -> None:
    kinds = "py|yaml|sh|sbatch|html|md|txt"
    named = re.findall(rf"(?<![\w/.])((?:{'|'.join(FOLDERS)})/[\w./-]*\w\.(?:{kinds}))\b", read(name))
    missing = [
        path for path in named if not (ROOT / path).exists() and not ((ROOT / name).parent / path).exists()
    ]
    assert not [path for path in missing if path not in EXAMPLES and not path.endswith("FILE.yaml")]


def test_bare_names_of_modules_are_there() -> None:
    there = {path.name for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")} | {
        "run_experiment.py"
    }
    named = {name: set(re.findall(r"`(\w+\.py)`", read(name))) for name in NAMED_PAGES}
    there |= EXAMPLES
    assert not {name: found - there for name, found in named.items() if found - there}


@pytest.mark.parametrize("name", NAMED_PAGES)
def test_dotted_names_are_modules_or_what_they_hold(name: str) -> None:
    for dotted in set(re.findall(rf"`((?:{'|'.join(PACKAGES)})(?:\.\w+)+)`", read(name))):
        assert dotted.endswith(".py") or exists(dotted), f"{name}: {dotted}"


def exists(dotted: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one."""
    module, _, rest = dotted.rpartition(".")
    try:
        importlib.import_module(dotted)
    except ModuleNotFoundError:
        return bool(module) and hasattr(importlib.import_module(module), rest)
    return True


def test_the_index_of_pages_names_every_page() -> None:
    index = read("docs/README.md")
    pages = [page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").glob("**/*.md")]
    wanted = [page for page in pages if page != "README.md" and not re.match(r"decisions/\d", page)]
    assert not [page for page in wanted if f"]({page})" not in index]


def test_the_index_of_decisions_names_every_record() -> None:
    index = read("docs/decisions/README.md")
    records = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
    assert [int(record.name[:4]) for record in records] == list(range(1, len(records) + 1))
    for record in records:
        text = record.read_text(encoding="utf-8")
        title = text.partition("\n")[0].removeprefix("# ")
        assert f"[{title}]({record.name})" in index
        assert re.search(
            r"^Date: \d{4}-\d\d-\d\d\. Status: (accepted|rejected|superseded)", text, re.MULTILINE
        )


def test_the_way_of_a_trial_says_how_many_files_it_names() -> None:
    way, _, _ = read("docs/find-your-way.md").partition("## Which file you change")
    count = len(set(re.findall(r"\.\./(orchestrator/[\w/]+\.py)", way)))
    assert f"These ten lines name {count} files of `orchestrator/`" in way
    assert len(re.findall(r"^\d+\. ", way, re.MULTILINE)) == 10


def test_the_readme_is_one_page() -> None:
    text = read("README.md")
    assert len(text.splitlines()) <= 120
    assert len(re.findall(r"^!\[", text, re.MULTILINE)) == 1
    assert len(re.findall(r"(?<!!)\[[^\]]+\]\(", text)) == 5
