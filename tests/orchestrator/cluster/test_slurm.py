"""Batch scripts are filled in from checked values; tests/cluster runs them."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from orchestrator.cluster.slurm import SlurmJob, render
from tests.support.command import gradsweep, refused
from tests.support.paths import ROOT
from tests.support.small import tree


@pytest.fixture
def file(faces_root: Path, tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    YAML(typ="safe", pure=True).dump(tree(faces_root), path)
    return path


def test_every_flag_ends_in_the_script(file: Path) -> None:
    flags = (
        "--nodes",
        3,
        "--cpus",
        16,
        "--gpus",
        2,
        "--memory",
        "64G",
        "--time",
        "1-12:00:00",
        "--notice",
        300,
    )
    names = (
        "--partition",
        "gpu",
        "--account",
        "lab_1",
        "--qos",
        "long",
        "--name",
        "dp",
        "--image",
        "/i/g.sif",
    )
    done = gradsweep("slurm", "render", file, "/out", *flags, *names, "--", "--set", "study.suggestions=9")
    assert done.returncode == 0, done.stderr
    asked = {line for line in done.stdout.splitlines() if line.startswith("#SBATCH")}
    assert asked == {
        f"#SBATCH --{option}"
        for option in (
            *(
                "job-name=dp",
                "nodes=3",
                "ntasks-per-node=1",
                "cpus-per-task=16",
                "gpus-per-node=2",
                "mem=64G",
            ),
            *("time=1-12:00:00", "partition=gpu", "account=lab_1", "qos=long", "signal=B:USR1@300"),
            *("open-mode=append", "requeue", "no-kill", "output=gradsweep-%j.out"),
        )
    }
    assert "export GRADSWEEP_IMAGE=/i/g.sif" in done.stdout
    assert f"set -- {file} /out --set study.suggestions=9" in done.stdout


@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("--account", "lab; rm -rf ~", "SlurmJob.account = 'lab; rm -rf ~'"),
        ("--account", "lab\n#SBATCH --uid=0", "SlurmJob.account"),
        ("--partition", "-x", "SlurmJob.partition"),
        ("--name", "$(id)", "SlurmJob.name"),
        ("--time", "tomorrow", "MINUTES, HH:MM:SS or D-HH:MM:SS"),
        ("--memory", "lots", "such as 64G"),
        ("--image", "/a\nb.sif", "without control characters"),
        ("--nodes", "0", "SlurmJob.nodes = 0: must be at least 1"),
        ("--at-once", "2", "with an array only"),
        ("--home", "/nowhere", "name the project's checkout with --home"),
    ],
)
def test_what_slurm_would_misread_is_refused(file: Path, flag: str, value: str, said: str) -> None:
    refused(gradsweep("slurm", "render", file, "/out", flag, value), said)


def test_words_that_a_shell_would_expand_arrive_as_they_are(tmp_path: Path) -> None:
    home = tmp_path / "it's a $HOME"
    shutil.copytree(ROOT / "slurm", home / "slurm")
    # The functions are replaced by one that shows what it got; the rest of the script is the real one.
    (home / "slurm" / "lib.sh").write_text(
        'begin() { printf "%s|" "$@"; }; drive() { printf "%s|" "$@"; }\n'
        + "".join(
            f"{name}() {{ :; }}\n" for name in ("start_head", "start_workers", "await_nodes", "finish", "die")
        )
    )
    words = ("a b.yaml", "/out/`id`;'x'", ("--set", "name=$(id)"))
    script = render(SlurmJob(nodes=2), home=home, sweep=words[0], results=words[1], flags=words[2])
    done = subprocess.run(["bash"], input=script, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "|".join([*words[:2], words[0], "--out", words[1], *words[2]]) + "|"


def test_a_script_for_data_that_are_not_here_says_so(file: Path) -> None:
    there = gradsweep("slurm", "render", file, "/out")
    assert (there.returncode, there.stderr) == (0, "")
    for flags in (("--set", "data.root=/nowhere/faces"), ("--set=data.root=/nowhere/faces",)):
        done = gradsweep("slurm", "render", file, "/out", "--", *flags)
        assert done.returncode == 0
        assert "/nowhere/faces: no such data folder" in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_an_array_has_an_element_for_each_cell(file: Path, tmp_path: Path) -> None:
    done = gradsweep("slurm", "render", file, "/out", "--array", "--at-once", 1, "--out", tmp_path / "job.sh")
    assert done.returncode == 0, done.stderr
    script = (tmp_path / "job.sh").read_text()
    assert "#SBATCH --array=0-1%1\n" in script
    assert "gradsweep merge /out/* --out" in script
    assert gradsweep("slurm", "cells", file).stdout.split() == ["none", "dp"]
    refused(
        gradsweep("slurm", "render", file, "/out", "--array", "--nodes", 2),
        "SlurmJob.nodes = 2",
        "in an array",
    )


def test_the_scripts_are_clean(file: Path, tmp_path: Path) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    for name, more in (
        ("job.sh", ("--image", "/a b.sif")),
        ("array.sh", ("--array",)),
        ("elastic.sh", ("--workers", 2)),
    ):
        gradsweep("slurm", "render", file, "/o u/t", *more, "--out", tmp_path / name)
    ours = [
        path.relative_to(ROOT)
        for path in sorted((ROOT / "slurm").iterdir())
        if path.suffix in (".sh", ".sbatch")
    ]
    assert len(ours) == 7
    made = [str(tmp_path / f"{name}.sh") for name in ("job", "array", "elastic", "elastic-workers")]
    command = ["shellcheck", "-x", *map(str, ours), *made]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


def function(tmp_path: Path, call: str, **environment: str) -> str:
    """What a call of one of lib.sh's functions prints."""
    settings = {
        "GRADSWEEP_HOME": "/home/of/it",
        "GS_RUN": "/run",
        "GS_OUT": "/out",
        "PATH": f"{tmp_path}:/usr/bin:/bin",
    }
    done = subprocess.run(
        ["bash", "-euc", f'. "{ROOT}/slurm/lib.sh"; {call}'],
        cwd=tmp_path,
        env=settings | environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return done.stdout.strip()


def test_cpus_and_gpus_are_those_of_the_allocation(tmp_path: Path) -> None:
    groups = {"SLURM_JOB_CPUS_PER_NODE": "8(x2),4,16(x3)"}
    assert [function(tmp_path, f"cpus_of {i}", **groups) for i in range(6)] == [
        "8",
        "8",
        "4",
        "16",
        "16",
        "16",
    ]
    step = {"GS_ONE_NODE": "1", "SLURM_CPUS_ON_NODE": "3"}
    assert function(tmp_path, "cpus_of 0", **groups, **step) == "3"
    pinned = function(tmp_path, "taskset -c 0 bash -c '. \"$0\"; cpus_of 0' " + f'"{ROOT}/slurm/lib.sh"')
    assert pinned == "1", "without Slurm, those that the process may use"
    for visible, count in (
        ("", "0"),
        ("NoDevFiles", "0"),
        ("3", "1"),
        ("0,2,5", "3"),
        ("GPU-a1,GPU-b2", "2"),
    ):
        assert function(tmp_path, "gpus", CUDA_VISIBLE_DEVICES=visible) == count


def test_everything_runs_in_the_image_where_there_is_one(tmp_path: Path) -> None:
    apptainer = tmp_path / "apptainer"
    apptainer.write_text('#!/bin/sh\nprintf "%s|" "$@"\n')
    apptainer.chmod(0o755)
    plain = function(tmp_path, "inside echo 'a b'")
    assert plain == "a b"
    image = {"GRADSWEEP_IMAGE": "/i/my image.sif", "GRADSWEEP_BIND": "/data", "GS_SCRATCH": "/s"}
    binds = f"/home/of/it,{tmp_path},/run,/out,/s,/data"
    expected = ["exec", "--bind", binds, "--pwd", str(tmp_path), "/i/my image.sif", "ray", "start", "--x=a b"]
    assert function(tmp_path, "inside ray start '--x=a b'", **image).split("|")[:-1] == expected
    shown = function(tmp_path, "inside ray", **image, CUDA_VISIBLE_DEVICES="0").split("|")
    assert shown[5:7] == ["--nv", "/i/my image.sif"]


def test_ports_that_are_taken_are_passed_over(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", 20000 + 599 * 20))
        taken.listen()
        (tmp_path / "s.yaml").touch()
        begin = 'begin s.yaml out >/dev/null; echo "$GS_IP:$GS_PORT"; stat -c %a "$RAY_AUTH_TOKEN_PATH"'
        ports = [function(tmp_path, begin, SLURM_JOB_ID=job) for job in ("599", "7")]
    assert ports == ["127.0.0.1:20000\n600", "127.0.0.1:20140\n600"]
    assert not list(tmp_path.glob("gradsweep-*/token")), "removed at the end"


def test_a_job_that_queues_itself_again_outlives_what_slurm_sends_meanwhile(tmp_path: Path) -> None:
    """Slurm sends TERM to every process of a job that is queued again, also to the one that asked for it."""
    scontrol = tmp_path / "scontrol"
    scontrol.write_text('#!/bin/bash\n[ "$*" = "requeue 7" ] && kill -TERM $$ $PPID && sleep 0.2\n')
    scontrol.chmod(0o755)
    ending = (
        f'. "{ROOT}/slurm/lib.sh"; elastic=yes; set_up; sleep() {{ :; }}; caught=USR1 status=$STOPPED; finish'
    )
    done = subprocess.run(
        ["bash", "-euc", ending],
        env={
            "GRADSWEEP_HOME": "/h",
            "GS_RUN": str(tmp_path),
            "GS_JOB": "7",
            "PATH": f"{tmp_path}:/usr/bin:/bin",
        },
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    said = [line.partition("gradsweep: ")[2] for line in done.stdout.splitlines()]
    assert (said, done.returncode) == (["TERM: stopping", "queued again"], 75), done.stderr
    assert not (tmp_path / "done").exists(), "elastic workers wait for the next start"


def test_elastic_workers_are_a_script_of_their_own(file: Path, tmp_path: Path) -> None:
    job = tmp_path / "job.sh"
    flags = ("--workers", 6, "--cpus", 4, "--time", "30", "--partition", "spare", "--out", job)
    done = gradsweep("slurm", "render", file, "/out", *flags, "--", "--cache", "/shared")
    assert done.returncode == 0, done.stderr
    second = tmp_path / "job-workers.sh"
    assert done.stdout.splitlines()[1:] == [
        f"head=$(sbatch --parsable {job})",
        f"sbatch --dependency=after:$head {second} $head",
    ]
    head, workers = job.read_text(), second.read_text()
    for script in (head, workers):
        assert "#SBATCH --cpus-per-task=4\n" in script
        assert "#SBATCH --partition=spare\n" in script
        assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    assert f"set -- {file} /out --cache /shared" in head
    assert "--array" not in head.partition("set -e")[0]
    assert "#SBATCH --array=1-6\n" in workers
    assert str(file) not in workers
    refused(
        gradsweep("slurm", "render", file, "/out", "--workers", 2), "--workers makes two scripts", "--out"
    )
    twice = ("--workers", 2, "--nodes", 3, "--out", job)
    refused(gradsweep("slurm", "render", file, "/out", *twice), "SlurmJob.workers = 2", "one node")


def test_a_worker_waits_for_its_head_and_ends_with_the_sweep(tmp_path: Path) -> None:
    """The real functions, on nodes that only say what they are asked for."""
    home = tmp_path / "home"
    shutil.copytree(ROOT / "slurm", home / "slurm")
    (home / "slurm" / "node.sh").write_text(
        'echo "$1 $GS_IP $GS_PORT"; trap "exit 0" USR2; sleep 60 & wait $!'
    )
    folder = tmp_path / "gradsweep-9"
    folder.mkdir()
    surrounding = {"GRADSWEEP_HOME": str(home), "SLURM_JOB_ID": "11", "PATH": os.environ["PATH"]}

    def start(**more: str) -> subprocess.Popen[str]:
        script = ["bash", str(home / "slurm" / "elastic_worker.sbatch"), "9"]
        return subprocess.Popen(
            script,
            cwd=tmp_path,
            env=surrounding | more,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    log = folder / "worker-11.log"
    worker = start()
    for number, address in enumerate(("10.0.0.1:20000", "10.0.0.2:20040"), start=1):
        (folder / "address").write_text(f"{address} start 0\n")
        _until(lambda lines=number: log.exists() and len(log.read_text().splitlines()) == lines)
        assert worker.poll() is None, "a head that is queued again comes back"
    (folder / "address").unlink()
    (folder / "done").touch()
    said, _ = worker.communicate(timeout=60)
    assert worker.returncode == 0, said
    assert "joining 10.0.0.2:20040" in said
    assert log.read_text().split("\n")[:-1] == ["worker 10.0.0.1 20000", "worker 10.0.0.2 20040"]
    (folder / "done").unlink()
    lonely = start(GRADSWEEP_PATIENCE="1")
    said, _ = lonely.communicate(timeout=60)
    assert lonely.returncode == 75
    assert "no head of job 9 for 1 s" in said


def _until(holds: Callable[..., bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)
