"""The container's entry point, run on this machine with a stand-in for the command `ray` that notes its arguments."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.paths import ROOT

SCRIPT = ROOT / "docker" / "entrypoint.sh"
TOKEN = "d0c5e1b7a9"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the entry point is for Linux containers")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a token and a `ray` that does what RAY_DOES says."""
    (tmp_path / "token").write_text(TOKEN)
    ray = tmp_path / "ray"
    ray.write_text('#!/bin/bash\necho "$@" >>"$TMPDIR/calls"\neval "$RAY_DOES"\n')
    ray.chmod(0o755)
    return tmp_path


def start(place: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    environment = {
        "PATH": f"{place}:/usr/bin:/bin",
        "TMPDIR": str(place),
        "RAY_AUTH_TOKEN_PATH": str(place / "token"),
    } | variables
    return subprocess.Popen(
        [SCRIPT, *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def calls(place: Path) -> list[str]:
    file = place / "calls"
    return file.read_text().splitlines() if file.exists() else []


def test_help_lists_every_role(place: Path) -> None:
    said, _ = start(place, "help").communicate(timeout=60)
    for role in ("head", "worker", "sweep FILE", "report DIR", "shell", "GRADSWEEP_HEAD"):
        assert role in said
    assert not calls(place)


@pytest.mark.parametrize("role", ["head", "worker", "sweep"])
@pytest.mark.parametrize("path", ["", "/nowhere"])
def test_no_cluster_without_a_token(role: str, path: str, place: Path) -> None:
    started = start(place, role, RAY_AUTH_TOKEN_PATH=path, GRADSWEEP_HEAD="127.0.0.1:1")
    _, said = started.communicate(timeout=60)
    assert started.returncode == 2
    assert "RAY_AUTH_TOKEN_PATH" in said
    assert not calls(place)


def test_a_start_that_fails_is_tried_once_more(place: Path) -> None:
    started = start(place, "head", RAY_DOES="exit 7", GRADSWEEP_CPUS="3")
    _, said = started.communicate(timeout=60)
    assert started.returncode == 7
    assert "trying once more" in said
    assert len(calls(place)) == 2
    assert len(set(calls(place))) == 1
    assert "--num-cpus 3" in calls(place)[0]
    assert "--dashboard-host 127.0.0.1" in calls(place)[0]
    assert TOKEN not in calls(place)[0]


def test_stopping_reaches_the_node_and_starts_no_other(place: Path) -> None:
    started = start(place, "head", RAY_DOES='trap "touch $TMPDIR/stopped; exit 1" TERM; sleep 60 & wait')
    limit = time.monotonic() + 60
    while not calls(place) and time.monotonic() < limit:
        time.sleep(0.05)
    time.sleep(0.2)  # The stand-in notes its call just before it sets its trap.
    started.send_signal(signal.SIGTERM)
    assert started.wait(timeout=60) == 128 + signal.SIGTERM
    assert (place / "stopped").exists()
    assert len(calls(place)) == 1


def test_a_worker_waits_for_its_head_and_says_whom_it_missed(place: Path) -> None:
    started = start(place, "worker", GRADSWEEP_HEAD="127.0.0.1:1", GRADSWEEP_WAIT="1")
    _, said = started.communicate(timeout=60)
    assert started.returncode == 2
    assert "GRADSWEEP_HEAD=127.0.0.1:1: nobody answered for 1 s" in said
    assert not calls(place)


def test_a_made_token_is_long_and_closed_off(tmp_path: Path) -> None:
    file = tmp_path / "secrets" / "ray_token"
    command = [SCRIPT.parent / "make-token.sh", file]
    said = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ).stdout
    token = file.read_text()
    assert len(token) == 64
    assert token not in said
    assert file.stat().st_mode & 0o777 == 0o444
    assert file.parent.stat().st_mode & 0o777 == 0o700
    assert subprocess.run(command, capture_output=True).returncode == 2
    assert file.read_text() == token
