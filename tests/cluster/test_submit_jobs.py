"""Jobs on a real Ray head that asks for a token, on loopback: they run, follow, stop, fail and are refused."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
from ruamel.yaml import YAML

from tests.support.command import gradsweep, refused
from tests.support.paths import ROOT
from tests.support.small import tree

pytestmark = pytest.mark.timeout(600)


@dataclass(frozen=True)
class Head:
    """A running head: its dashboard's address, its token file, its folder."""

    address: str
    token: Path
    folder: Path


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # Short, for the sake of sockets.
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    port = free_port()
    options = {
        "node-ip-address": "127.0.0.1",
        "port": free_port(),
        "dashboard-port": port,
        "ray-client-server-port": free_port(),
        "dashboard-agent-listen-port": free_port(),
        "num-cpus": 2,
        "object-store-memory": 200_000_000,
        "temp-dir": folder,
    }
    command = ["ray", "start", "--head", "--block", "--disable-usage-stats", "--include-dashboard=true"]
    with (folder / "head.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, *(f"--{key}={value}" for key, value in options.items())],
            env=environment(token),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        address = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 120
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline, (
                    folder / "head.log"
                ).read_text()
                time.sleep(0.5)
        yield Head(address, token, folder)
    finally:
        process.terminate()
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # `ray start --block` leads a group of its own.
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def environment(token: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    ours = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_agent_register_timeout_ms": "120000",
    }
    return kept | ours | {"PATH": path}


def write(faces_root: Path, folder: Path, iterations: int) -> Path:
    path = folder / "small.yaml"
    content = tree(faces_root, attackers__0__attack__iterations=iterations, attackers__0__search={})
    YAML(typ="safe", pure=True).dump(content, path)
    return path


def test_a_job_runs_the_sweep_and_its_output_and_exit_code_come_back(
    head: Head, faces_root: Path, tmp_path: Path
) -> None:
    file, out = write(faces_root, tmp_path, 4), tmp_path / "out"
    token = {"RAY_AUTH_TOKEN_PATH": str(head.token)}
    done = gradsweep("submit", file, "--address", head.address, "--out", out, **token)
    assert done.returncode == 0, done.stdout + done.stderr
    for part in (
        "submitted gradsweep-small-",
        "6 trials, 6 of them run now, 0 failed",
        ": succeeded, exit code 0",
    ):
        assert part in done.stdout
    assert len(pd.read_parquet(out / "trials")) == 6
    secret = head.token.read_text().encode()
    assert secret.decode() not in done.stdout + done.stderr
    written = [path for folder in (out, head.folder) for path in folder.rglob("*") if path.is_file()]
    assert [path for path in written if secret in path.read_bytes()] == [head.token]
    # The same sweep again resumes, here with an override that the sweep refuses by name on the cluster.
    bad = gradsweep(
        *("submit", file, "--address", head.address, "--out", out, "--set", "data.root=/nowhere"), **token
    )
    assert bad.returncode == 2, bad.stdout + bad.stderr
    assert "gradsweep: " in bad.stdout
    assert "/nowhere" in bad.stdout
    assert ": failed, exit code 2" in bad.stdout


def test_leaving_the_output_leaves_the_job_and_stopping_ends_it(
    head: Head, faces_root: Path, tmp_path: Path
) -> None:
    file, out = write(faces_root, tmp_path, 100_000), tmp_path / "out"
    token = {"RAY_AUTH_TOKEN_PATH": str(head.token)}
    command = [sys.executable, "-m", "orchestrator", "submit", str(file), "--address", head.address]
    with (tmp_path / "said").open("w+b") as said:
        following = subprocess.Popen(
            [*command, "--out", str(out)], cwd=ROOT, env=environment(head.token), stdout=said, stderr=said
        )
        try:
            deadline = time.monotonic() + 120
            while b"0/6 jobs" not in (tmp_path / "said").read_bytes() and time.monotonic() < deadline:
                assert following.poll() is None, (tmp_path / "said").read_text()
                time.sleep(0.2)
            following.send_signal(signal.SIGINT)
            assert following.wait(60) == 3
        finally:
            following.kill()
    text = (tmp_path / "said").read_text()
    assert "no longer following; the job goes on. gradsweep jobs follow|status|stop" in text
    assert "Traceback" not in text
    job = text.partition("submitted ")[2].partition(";")[0]
    there = ("--address", head.address)
    status = gradsweep("jobs", "status", job, *there, **token)
    assert (status.returncode, status.stdout) == (3, f"{job}: running\n")
    stopped = gradsweep("jobs", "stop", job, *there, **token)
    assert stopped.returncode == 0, stopped.stderr
    assert stopped.stdout == f"{job}: stopped, exit code 75\n"
    assert gradsweep("jobs", "follow", job, *there, **token).returncode == 75
    refused(
        gradsweep("jobs", "status", "gradsweep-absent", *there, **token), "gradsweep-absent does not exist"
    )


def test_without_the_right_token_nothing_runs(
    head: Head, faces_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, out = write(faces_root, tmp_path, 4), tmp_path / "out"
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    for more, token, said in (
        (("--no-token",), {}, "wants a token"),
        ((), {"RAY_AUTH_TOKEN": "wrong"}, "refuses the token of RAY_AUTH_TOKEN"),
    ):
        done = gradsweep("submit", file, "--address", head.address, "--out", out, *more, **token)
        refused(done, said, "Ask whoever runs the cluster")
    assert not out.exists()
