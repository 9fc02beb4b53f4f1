"""The image and the compose file, built and run for real: `make container-test`.

The image holds PyTorch's CUDA build unless TORCH_INDEX_URL names an index of CPU wheels. GRADSWEEP_IMAGE takes an
image that is there already. The sweeps are the quickstart, scaled down unless GRADSWEEP_WHOLE=1.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pandas as pd
import pytest

from tests.containers.engine import ROOT, Engine, NoEngine, find_engine, tool

WORK = Path(os.environ.get("GRADSWEEP_CONTAINERS", "/var/tmp/gradsweep-containers"))
"""Storage of an engine of our own, tools, base image: kept from one run to the next."""

CPU_LIMIT = 1.6e9
USER = 10001
LOCKED_DOWN = ("--network=none", "--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--init", "--shm-size=2g")
SMALL = (
    *(
        "--cells",
        "none",
        "--set",
        "study.suggestions=4",
        "--set",
        "victims.tuning=1",
        "--set",
        "victims.test=2",
    ),
    *("--set", "attackers.0.attack.iterations=5", "--set", "utility=null"),
)
NEVER_IN_A_LAYER = (
    ".git/",
    "secrets/",
    "ray_token",
    "auth_token",
    ".cache/pip",
    "cache/pip/",
    "pip/http",
    "celeba",
    ".env",
    "id_rsa",
)


@pytest.fixture(scope="session")
def engine() -> Engine:
    try:
        return find_engine(WORK)
    except NoEngine as reason:
        pytest.skip(f"no container engine: {reason}")


@pytest.fixture(scope="session")
def commit() -> str:
    return subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=ROOT, text=True).strip()


@pytest.fixture(scope="session")
def token_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("token") / "secrets" / "ray_token"
    subprocess.run([ROOT / "docker" / "make-token.sh", file], check=True, capture_output=True)
    return file


@pytest.fixture(scope="session")
def image(engine: Engine, commit: str) -> Iterator[str]:
    """The image, built with things beside the code that must not get into it."""
    if ready := os.environ.get("GRADSWEEP_IMAGE"):
        yield ready
        return
    tag = "localhost/gradsweep-check"
    planted = [ROOT / "docker" / "secrets" / "ray_token.planted", ROOT / "data" / "celeba_planted.jpg"]
    made = [path.parent for path in planted if not path.parent.exists()]
    for path in planted:
        path.parent.mkdir(exist_ok=True)
        path.write_text("planted")
    try:
        arguments = {"BASE_IMAGE": engine.base_image, "GIT_COMMIT": commit}
        engine.build(tag, arguments | {"TORCH_INDEX_URL": os.environ.get("TORCH_INDEX_URL", "")})
    finally:
        for path in planted:
            path.unlink()
        for folder in made:
            folder.rmdir()
    yield tag


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Folders `results` and `data` that the container's user may write to."""
    for name in ("results", "data"):
        (tmp_path / name).mkdir()
        shutil.chown(tmp_path / name, USER, USER) if os.geteuid() == 0 else (tmp_path / name).chmod(0o777)
    return tmp_path


def inspect(engine: Engine, image: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(engine.run("image", "inspect", image).stdout)[0]
    return found


def config_of(inspected: Mapping[str, Any]) -> dict[str, Any]:
    """The image's settings; podman has the health check beside them."""
    return {
        **inspected["Config"],
        "Healthcheck": inspected["Config"].get("Healthcheck") or inspected.get("Healthcheck"),
    }


def inside(engine: Engine, image: str, script: str, *flags: str) -> subprocess.CompletedProcess[str]:
    return engine.run("run", "--rm", *LOCKED_DOWN, *flags, image, "shell", "-c", script)


def test_files_are_clean(engine: Engine) -> None:
    """hadolint, the compose schema, and shellcheck where it is installed."""
    docker = ROOT / "docker"
    commands = [
        [tool(WORK, "hadolint"), "--failure-threshold", "style", ROOT / "Dockerfile"],
        [tool(WORK, "check-jsonschema"), "--builtin-schema", "vendor.compose-spec", docker / "compose.yaml"],
    ]
    if shutil.which("shellcheck"):
        commands.append(["shellcheck", *sorted(docker.glob("*.sh"))])
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def say(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Prints a line about what was measured."""
    return lambda text: request.config.get_terminal_writer().line(f"\n{text}")


def test_image_says_what_it_is(engine: Engine, image: str, commit: str, say: Callable[[str], None]) -> None:
    inspected = inspect(engine, image)
    config = config_of(inspected)
    labels, environment = config["Labels"], dict(entry.split("=", 1) for entry in config["Env"])
    assert config["User"] == f"{USER}:{USER}"
    assert config["Healthcheck"]["Test"][-2:] == ["gradsweep-container", "health"]
    assert environment["RAY_AUTH_MODE"] == "token"
    assert labels["org.opencontainers.image.revision"] == environment["GIT_COMMIT"]
    if "GRADSWEEP_IMAGE" not in os.environ:
        assert environment["GIT_COMMIT"] == commit
    versions = inside(
        engine, image, "python -c 'import torch; print(torch.__version__, torch.version.cuda)'"
    ).stdout.split()
    say(f"image: {inspected['Size'] / 1e9:.2f} GB, torch {versions[0]}, CUDA {versions[1]}")
    if labels["gradsweep.torch-index"] == "given":
        assert versions[1] == "None"
        assert inspected["Size"] < CPU_LIMIT
    else:
        assert "CUDA" in labels["gradsweep.torch-index"]
        assert versions[1] != "None"


def test_versions_are_the_locks(engine: Engine, image: str) -> None:
    """Every package of the image but the project is one of the lock, at its version."""
    listing = inside(
        engine, image, "cd /opt/gradsweep/lib/python3*/site-packages && ls -d *.dist-info"
    ).stdout
    found = {
        f"{re.sub(r'[-_.]+', '-', name).lower()}=={version}"
        for name, version in re.findall(
            r"^([A-Za-z0-9_.-]+?)-([0-9][^-]*)\.dist-info$", listing, re.MULTILINE
        )
    }
    lock = {line.split(" ")[0] for line in (ROOT / "requirements" / "run.txt").read_text().splitlines()}
    strangers = {entry.split("+")[0] for entry in found if not entry.startswith("gradsweep==")} - lock
    assert not strangers
    assert len(found) > 60


class _Stream(io.RawIOBase):
    """Pieces of bytes as a file that can be read once."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._left = pieces, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._left = piece
        count = min(len(buffer), len(self._left))
        buffer[:count], self._left = self._left[:count], self._left[count:]
        return count


def _names(file: IO[bytes]) -> list[str]:
    """The files in a layer; nothing for what is no layer."""
    try:
        with tarfile.open(fileobj=file, mode="r|*") as layer:
            return [entry.name for entry in layer if entry.isfile()]
    except tarfile.ReadError:
        return []


def test_no_layer_holds_secrets_caches_or_history(engine: Engine, image: str) -> None:
    """Every layer, not only the last state: what a later layer removes is still there for whoever has the image."""
    names: list[str] = []
    with tarfile.open(fileobj=io.BufferedReader(_Stream(engine.layers(image)), 1 << 20), mode="r|") as saved:
        for member in saved:
            inner = saved.extractfile(member) if member.isfile() else None
            if inner is not None:
                names += _names(inner)
    ours = [name for name in names if "dist-info" not in name]
    assert any(name.endswith("orchestrator/driver/sweep.py") for name in ours)
    forbidden = [
        name for name in ours for part in NEVER_IN_A_LAYER if part in f"{name}/" and not name.endswith(".py")
    ]
    forbidden += [
        name for name in ours if "planted" in name or name.startswith(("root/.", "var/lib/apt/lists/deb"))
    ]
    assert not [name for name in forbidden if not name.endswith((".pyc", "/.bashrc", "/.profile"))]


def test_quickstart_ends_well_without_network_and_on_a_read_only_root(
    engine: Engine, image: str, place: Path, say: Callable[[str], None]
) -> None:
    whole = bool(os.environ.get("GRADSWEEP_WHOLE"))
    done = engine.run(
        *("run", "--rm", *LOCKED_DOWN, "--security-opt=no-new-privileges"),
        *("-v", f"{place / 'results'}:/gradsweep/results", "-v", f"{place / 'data'}:/gradsweep/data", image),
        *("sweep", "sweeps/quickstart.yaml", "--out", "results/quickstart", *(() if whole else SMALL)),
        timeout=2400,
    )
    out = place / "results" / "quickstart"
    rows = pd.read_parquet(out / "trials")
    assert set(rows["status"]) == {"ok"}
    assert set(rows["cell"]) == ({"none", "dp-eps8"} if whole else {"none"})
    commit = dict(entry.split("=", 1) for entry in config_of(inspect(engine, image))["Env"])["GIT_COMMIT"]
    assert set(rows["git_commit"]) == {commit}
    assert (out / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert (out / "report.html").stat().st_uid == USER or os.geteuid() != 0
    say(f"{'whole' if whole else 'small'} quickstart: {len(rows)} rows; {done.stdout.splitlines()[-1]}")


def test_it_runs_as_a_user_without_rights(engine: Engine, image: str) -> None:
    script = (
        "id -u; touch /gradsweep/x 2>&1; touch /opt/gradsweep/x 2>&1; "
        "grep -E '^(CapEff|NoNewPrivs)' /proc/self/status; gradsweep --help >/dev/null && echo runs"
    )
    lines = inside(engine, image, script, "--security-opt=no-new-privileges").stdout.splitlines()
    assert lines[0] == str(USER)
    assert sum("Read-only file system" in line for line in lines) == 2
    assert "CapEff:\t0000000000000000" in lines
    assert "NoNewPrivs:\t1" in lines
    assert lines[-1] == "runs"


@pytest.mark.parametrize(
    ("command", "flags", "said"),
    [
        (["head"], [], "RAY_AUTH_TOKEN_PATH is not set"),
        (["worker"], [], "RAY_AUTH_TOKEN_PATH is not set"),
        (["head"], ["-e", "RAY_AUTH_TOKEN_PATH=/nowhere"], "user 10001 finds no token there"),
        (["sweep", "sweeps/quickstart.yaml"], ["-e", "GRADSWEEP_HEAD=h:1"], "RAY_AUTH_TOKEN_PATH is not set"),
        (
            ["worker"],
            [
                "-e",
                "RAY_AUTH_TOKEN_PATH=/etc/hostname",
                "-e",
                "GRADSWEEP_HEAD=127.0.0.1:1",
                "-e",
                "GRADSWEEP_WAIT=1",
            ],
            "nobody answered for 1 s",
        ),
        (["sweep", "missing.yaml"], [], "Cannot read the sweep file missing.yaml"),
    ],
)
def test_mistakes_end_with_one_line(
    command: list[str], flags: list[str], said: str, engine: Engine, image: str
) -> None:
    done = engine.run("run", "--rm", *LOCKED_DOWN, *flags, image, *command, check=False)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("role", "healthy"), [("head", False), ("worker", False), ("sweep", True)])
def test_a_node_without_ray_is_ill_and_a_sweep_never(
    role: str, healthy: bool, engine: Engine, image: str
) -> None:
    script = f"echo {role} >/tmp/gradsweep-role; timeout 100 gradsweep-container health && echo well; true"
    said = inside(engine, image, script, "--env=GRADSWEEP_HEAD=127.0.0.1:6379").stdout
    assert ("well" in said) == healthy


COUNT = """
import ray
ray.init("auto", log_to_driver=False, logging_level="error")
print("NODES", sum(node["Alive"] for node in ray.nodes()))
"""


@dataclass(frozen=True)
class Cluster:
    """A head and two workers, started from the compose file."""

    engine: Engine
    settings: Mapping[str, str]
    project: str
    port: int
    token: str

    def compose(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return self.engine.compose("-p", self.project, *arguments, settings=self.settings, **options)

    def containers(self, service: str = "") -> list[str]:
        """The names of the project's containers, of one service where it is named."""
        found = self.engine.run("ps", "--format", "{{.Names}}").stdout.split()
        return [name for name in found if self.project in name and service in name.removeprefix(self.project)]

    def remove_leftovers(self) -> None:
        """What `down` leaves of a cluster that did not end as it should."""
        run, name = self.engine.run, "{{.Name}}"
        for listing, removal in (
            (("ps", "--all", "--format", "{{.Names}}"), ("rm", "--force")),
            (("volume", "ls", "--format", name), ("volume", "rm")),
            (("network", "ls", "--format", name), ("network", "rm")),
        ):
            for found in run(*listing).stdout.split():
                if self.project in found:
                    run(*removal, found, check=False)

    def execute(self, container: str, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.engine.run("exec", container, *command, check=check)

    def nodes(self) -> int:
        """How many nodes the head counts."""
        heads = self.containers("head")
        if not heads:
            return 0
        said = self.execute(heads[0], "python", "-c", COUNT, check=False).stdout
        return next((int(line.split()[1]) for line in said.splitlines() if line.startswith("NODES")), 0)

    def ask(self, token: str | None) -> int:
        """The status of a request to the Jobs API on this machine's loopback."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/api/jobs/")
        if token is not None:
            request.add_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code


@pytest.fixture(scope="module")
def cluster(engine: Engine, image: str, token_file: Path) -> Iterator[Cluster]:
    port = 18265
    settings = {
        "GRADSWEEP_IMAGE": image,
        "GRADSWEEP_TOKEN_FILE": str(token_file),
        "GRADSWEEP_DASHBOARD_PORT": str(port),
        "GRADSWEEP_CPUS": "1",
        "BASE_IMAGE": engine.base_image,
    }
    started = Cluster(engine, settings, f"gradsweepcheck{os.getpid()}", port, token_file.read_text())
    try:
        started.compose("up", "--detach", "--no-build", "--scale", "worker=2", timeout=900)
        limit = time.monotonic() + 420
        while (count := started.nodes()) < 3:
            logs = started.compose("logs", check=False)
            assert time.monotonic() < limit, (
                f"{count} of 3 nodes\n{logs.stdout[-8000:]}\n{logs.stderr[-4000:]}"
            )
            time.sleep(5)
        yield started
    finally:
        started.compose("down", "--volumes", timeout=300, check=False)
        started.remove_leftovers()


def test_a_sweep_runs_over_the_cluster(cluster: Cluster, tmp_path: Path) -> None:
    done = cluster.compose(
        *(
            "--profile",
            "sweep",
            "run",
            "--rm",
            "--no-deps",
            "sweep",
            "sweep",
            "sweeps/quickstart.yaml",
            "--out",
            "results/quickstart",
            *SMALL,
        ),
        timeout=1200,
    )
    assert "0 failed" in done.stdout, done.stdout + done.stderr
    volume = f"{cluster.project}_results"
    copied = tmp_path / "results.tar"
    script = "tar -C /gradsweep/results -cf - quickstart"
    with copied.open("wb") as file:
        command = [cluster.engine.command, "run", "--rm", "-v", f"{volume}:/gradsweep/results:ro"]
        subprocess.run(
            [*command, cluster.settings["GRADSWEEP_IMAGE"], "shell", "-c", script],
            stdout=file,
            check=True,
            env={**os.environ, **cluster.engine.environment},
        )
    with tarfile.open(copied) as archive:
        archive.extractall(tmp_path, filter="data")
    rows = pd.read_parquet(tmp_path / "quickstart" / "trials")
    assert set(rows["status"]) == {"ok"}
    nodes = {cluster.execute(name, "hostname").stdout.strip() for name in cluster.containers()}
    # The driver's own node offers no CPU: every trial ran on the head or a worker, four at once on more than one.
    assert set(rows["host"]) <= nodes
    assert len(set(rows["host"])) > 1
    for path in (tmp_path / "quickstart").rglob("*"):
        if path.suffix == ".parquet":
            assert cluster.token not in pd.read_parquet(path).to_csv()
        elif path.is_file():
            assert cluster.token.encode() not in path.read_bytes()


def test_whoever_has_no_token_is_refused(cluster: Cluster) -> None:
    """On the host's loopback, and in the cluster's own network, over the Jobs API and over Ray itself."""
    assert cluster.ask(cluster.token) == 200
    assert cluster.ask(None) == 401
    assert cluster.ask("0" * 64) == 403
    network = next(
        name
        for name in cluster.engine.run("network", "ls", "--format", "{{.Name}}").stdout.split()
        if cluster.project in name
    )
    for mode in ("disabled", "token"):
        script = "import ray; print(ray._raylet.GcsClient(address='head:6379').get_all_node_info() and 'IN')"
        done = cluster.engine.run(
            *("run", "--rm", "--init", f"--network={network}", "--tmpfs=/tmp", "-e", f"RAY_AUTH_MODE={mode}"),
            *("-e", "RAY_AUTH_TOKEN=wrong", "--shm-size=1g", cluster.settings["GRADSWEEP_IMAGE"]),
            *("shell", "-c", f'getent hosts head && python -c "{script}"'),
            check=False,
        )
        assert "head" in done.stdout, done.stderr
        assert "IN" not in done.stdout.replace("head", "")
        assert done.returncode != 0
        assert "nauthenticated" in done.stderr or "uthentication" in done.stderr, done.stderr


def test_the_dashboard_is_on_loopback_alone(cluster: Cluster) -> None:
    shown = cluster.engine.run("port", cluster.containers("head")[0]).stdout.split("\n")
    assert [line for line in shown if line] == [f"8265/tcp -> 127.0.0.1:{cluster.port}"]
    for worker in cluster.containers("worker"):
        assert not cluster.engine.run("port", worker).stdout.strip()


def test_the_token_is_in_no_argument_and_no_log(cluster: Cluster) -> None:
    for container in cluster.containers():
        arguments = cluster.execute(
            container, "bash", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '", check=False
        ).stdout
        assert "ray" in arguments
        assert cluster.token not in arguments
        logs = cluster.execute(
            container, "bash", "-c", "cat /tmp/ray/session_latest/logs/* 2>/dev/null", check=False
        )
        assert len(logs.stdout) > 100
        assert cluster.token not in logs.stdout
        assert cluster.token not in cluster.engine.run("logs", container).stdout
        environment = cluster.engine.run("inspect", container).stdout
        assert cluster.token not in environment


def test_nodes_of_the_cluster_are_healthy(cluster: Cluster) -> None:
    for service in ("head", "worker"):
        done = cluster.execute(cluster.containers(service)[0], "gradsweep-container", "health", check=False)
        assert done.returncode == 0, done.stderr


def test_containers_end_soon_when_they_are_asked_to(cluster: Cluster) -> None:
    worker = cluster.containers("worker")[-1]
    began = time.monotonic()
    cluster.engine.run("stop", "--time", "60", worker, timeout=120)
    assert time.monotonic() - began < 55, "it had to be killed"
