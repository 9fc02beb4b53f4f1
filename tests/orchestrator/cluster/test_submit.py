"""Submitting to a cluster: what is refused before anything is sent. Real jobs are in tests/cluster."""

from __future__ import annotations

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from fl_core.base.errors import InputError
from orchestrator.cluster import submit
from orchestrator.cluster.access import find_token
from orchestrator.cluster.submit import Jobs
from orchestrator.config.parse import load_sweep, sweep_tree
from tests.support.command import gradsweep, refused
from tests.support.small import tree


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without a token, and an environment that names none."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def file(faces_root: Path, tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    YAML(typ="safe", pure=True).dump(tree(faces_root), path)
    return path


def test_the_token_is_found_where_ray_finds_it_and_not_shown(home: Path) -> None:
    with pytest.raises(
        InputError, match=r"no token for the cluster.*RAY_AUTH_TOKEN_PATH.*ray get-auth-token"
    ):
        find_token({})
    default = home / ".ray" / "auth_token"
    default.parent.mkdir()
    default.write_text("from-home\n")
    assert find_token({}).secret == "from-home"
    named = home / "token"
    named.write_text("named")
    named.chmod(0o644)
    with pytest.raises(InputError, match="token can be read by others; chmod 600"):
        find_token({"RAY_AUTH_TOKEN_PATH": str(named)})
    named.chmod(0o600)
    assert find_token({"RAY_AUTH_TOKEN_PATH": str(named)}).secret == "named"
    given = find_token({"RAY_AUTH_TOKEN": "given", "RAY_AUTH_TOKEN_PATH": str(named)})
    assert (given.secret, given.source) == ("given", "RAY_AUTH_TOKEN")
    assert "given" not in repr(given)
    named.write_text("")
    with pytest.raises(InputError, match="is empty"):
        find_token({"RAY_AUTH_TOKEN_PATH": str(named)})
    with pytest.raises(InputError, match=r"Cannot read the token file .*absent \(No such file"):
        find_token({"RAY_AUTH_TOKEN_PATH": str(home / "absent")})


def test_without_a_token_nothing_is_sent_and_a_line_says_how_to_get_one(home: Path, file: Path) -> None:
    done = gradsweep("submit", file, "--address", "http://127.0.0.1:9", "--out", "/results")
    refused(done, "no token", "RAY_AUTH_TOKEN_PATH", "--no-token")


def test_an_address_that_does_not_answer_is_one_line(
    home: Path, file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(submit, "_ATTEMPTS", 2)
    done = gradsweep("submit", file, "--address", "http://127.0.0.1:9", "--out", "/results", "--no-token")
    refused(done, "No Ray dashboard answers at http://127.0.0.1:9")
    assert "the cluster at http://127.0.0.1:9: " in caplog.text
    assert "trying again (1 of 1)" in caplog.text
    for address in ("127.0.0.1:8265", "ray://127.0.0.1:10001"):
        done = gradsweep("submit", file, "--address", address, "--out", "/results", "--no-token")
        refused(done, f"--address '{address}'", "http://127.0.0.1:8265")


def test_paths_that_mean_nothing_on_the_cluster_are_refused(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = object.__new__(Jobs)  # Nothing is sent: there is no cluster to know.
    wanted = {"overrides": [], "cells": [], "python": "python"}
    with pytest.raises(InputError, match=r"--out 'results': must be a full path, on the cluster"):
        there.submit(file, out="results", **wanted)  # type: ignore[arg-type]
    with pytest.raises(
        InputError, match=r"data\.root = 'data' is a folder of this machine.*--set data\.root="
    ):
        there.submit(file, out="/results", **wanted | {"overrides": ["data.root=data"]})  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"unknown key 'sed'"):
        there.submit(file, out="/results", **wanted | {"overrides": ["sed=1"]})  # type: ignore[arg-type]


def test_what_is_sent_is_the_code_and_the_sweep_alone(file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sent"
    folder.mkdir()
    submit._stage(sweep_tree(file), folder)
    assert load_sweep(folder / "sweep.yaml") == load_sweep(file)
    assert sorted(path.name for path in folder.iterdir()) == [
        *("attack_core", "defenses", "fl_core", "orchestrator", "sweep.yaml")
    ]
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".css", ".html", ".js", ".py", ".yaml"}
    assert sum(path.stat().st_size for path in files) < 3_000_000


def test_only_what_may_pass_is_tried_again() -> None:
    for error in (
        ConnectionError(),
        TimeoutError(),
        RuntimeError("Request failed with status code 503: busy."),
    ):
        assert submit._transient(error)
    for error in (RuntimeError("Request failed with status code 400: bad."), ValueError(), KeyError()):
        assert not submit._transient(error)
