"""Which commit a result names: that of gradsweep's own checkout, or none."""

from __future__ import annotations

import inspect
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import orchestrator
from orchestrator.io.provenance import provenance

PACKAGE = Path(orchestrator.__file__).parent
SOURCE = Path(inspect.getfile(provenance))


def git(folder: Path, *words: str) -> str:
    names = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(
        ["git", *names, *words], cwd=folder, env=clean, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def repository(folder: Path) -> str:
    """A repository with everything that lies in `folder`; its commit."""
    (folder / "README").write_text("x")
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "x")
    return git(folder, "rev-parse", "HEAD")


def installed(home: Path) -> Path:
    """The module that asks git, in a package of its own under `home`."""
    copy = home / SOURCE.relative_to(PACKAGE.parent)
    copy.parent.mkdir(parents=True)
    shutil.copy(SOURCE, copy)
    for folder in [copy.parent, *copy.parent.relative_to(home).parents]:
        (home / folder / "__init__.py").touch()
    (home / "__init__.py").unlink()
    return home


def commit(home: Path, **environment: str) -> str | None:
    """What the copy under `home` takes for its commit."""
    name = ".".join(SOURCE.relative_to(PACKAGE.parent).with_suffix("").parts)
    code = f"import {name} as copy; print(copy.provenance()['git_commit'] or '')"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=clean | {"PYTHONPATH": str(home)} | environment,
        cwd=home,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip() or None


def test_a_checkout_names_its_commit_whatever_the_environment_says(tmp_path: Path) -> None:
    home, other = tmp_path / "checkout", tmp_path / "other"
    installed(home)
    other.mkdir()
    mine, theirs = repository(home), repository(other)
    assert mine != theirs
    assert commit(home) == mine
    for names in (
        {"GIT_DIR": str(other / ".git")},
        {"GIT_DIR": str(other / ".git"), "GIT_WORK_TREE": str(other)},
        {"GIT_INDEX_FILE": str(other / ".git" / "index")},
        {"GIT_CEILING_DIRECTORIES": str(tmp_path)},
        {"GIT_COMMON_DIR": str(other / ".git")},
    ):
        assert commit(home, **names) == mine, names
    assert commit(home, GIT_COMMIT="built") == "built", "the image's build names its commit so"


@pytest.mark.parametrize("place", ["venv/lib/site-packages", "vendored"])
def test_a_repository_around_an_installation_is_not_its_own(tmp_path: Path, place: str) -> None:
    installed(tmp_path / place)
    repository(tmp_path)  # It even tracks the copy.
    assert commit(tmp_path / place) is None
    assert commit(tmp_path / place, GIT_DIR=str(tmp_path / ".git")) is None


def test_a_repository_that_does_not_track_the_package_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("orchestrator/\n")
    installed(tmp_path)
    repository(tmp_path)
    assert commit(tmp_path) is None


def test_without_a_repository_there_is_no_commit(tmp_path: Path) -> None:
    installed(tmp_path)
    assert commit(tmp_path) is None
