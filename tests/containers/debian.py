"""A container engine and a base image on a Debian machine that has neither an engine nor a registry. Needs root.

podman comes from Debian's packages, with storage and settings of its own in one folder: what else podman holds on
the machine is neither used nor changed. The base image stands in for the official Python image: Debian's
smallest system with Python 3.11.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PACKAGES = (
    # crun refuses hybrid cgroups, runc takes them; dnsname and dnsmasq give compose its service names; catatonit
    # is `init: true`.
    *("podman", "buildah", "runc", "conmon", "containernetworking-plugins"),
    *(
        "golang-github-containernetworking-plugin-dnsname",
        "dnsmasq-base",
        "iptables",
        "catatonit",
        "mmdebstrap",
    ),
)
BASE_PACKAGES = (
    *("ca-certificates", "netbase", "tzdata", "zlib1g", "libssl3", "libffi8", "libsqlite3-0", "libbz2-1.0"),
    *("liblzma5", "libreadline8", "libncursesw6", "libuuid1", "libexpat1"),
)
STAND_IN = "localhost/gradsweep-stand-in:python3.11"
CERTIFICATES = Path("/etc/ssl/certs")


@dataclass(frozen=True)
class DebianPodman:
    """podman with everything that it keeps under `folder`."""

    folder: Path

    @property
    def environment(self) -> Mapping[str, str]:
        """What a podman command needs beside the usual environment."""
        return {
            "CONTAINERS_CONF": str(self.folder / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(self.folder / "storage.conf"),
        }

    @property
    def build_flags(self) -> Sequence[str]:
        """Flags of `podman build`: no nested cgroups, health checks kept, and this machine's certificates for pip."""
        mounts = (f"{CERTIFICATES}:{CERTIFICATES}:ro", f"{self.folder / 'pip.conf'}:/etc/pip.conf:ro")
        return ("--isolation=chroot", "--format=docker", *(f"--volume={mount}" for mount in mounts))

    def set_up(self) -> None:
        """Install what is missing and write the settings."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not all(shutil.which(name) for name in ("podman", "buildah", "runc", "mmdebstrap", "dnsmasq")):
            _run("apt-get", "-q", "update")
            _run("apt-get", "-q", "install", "-y", "--no-install-recommends", *PACKAGES)
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        (self.folder / "containers.conf").write_text(
            "[containers]\n"
            # podman's own default is more than a machine without CAP_SYS_RESOURCE may ask for.
            f'default_ulimits = ["nofile={files}:{files}", "nproc=4096:4096"]\n'
            '[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
        )
        (self.folder / "storage.conf").write_text(
            '[storage]\ndriver = "overlay"\n'
            f'graphroot = "{self.folder / "storage"}"\nrunroot = "{self.folder / "run"}"\n'
        )
        bundle = CERTIFICATES / "ca-certificates.crt"
        (self.folder / "pip.conf").write_text(f"[global]\ncert = {bundle}\ntimeout = 180\n")

    def base_image(self) -> str:
        """The name of the stand-in base image, which is made where it is not there yet."""
        if subprocess.run(["podman", "image", "exists", STAND_IN], env=self._all()).returncode == 0:
            return STAND_IN
        root = self.folder / "rootfs"
        shutil.rmtree(root, ignore_errors=True)
        built = Path(sys.base_prefix)
        ours = sys.version_info[:2] == (3, 11) and (built / "lib/libpython3.11.so.1.0").exists()
        python = () if ours else ("python3.11", "python3.11-venv", "python3-pip")
        _run(
            *("mmdebstrap", "--quiet", "--variant=minbase", "--format=directory"),
            f"--include={','.join((*BASE_PACKAGES, *python))}",
            *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("man", "doc", "locale", "info")),
            *("bookworm", str(root), *_sources()),
        )
        for leftover in [*(root / "var/lib/apt/lists").glob("*"), *(root / "var/cache/apt").glob("*.bin")]:
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        _install_python(built, root) if ours else _name_python(root)
        _import_image(root, self._all())
        shutil.rmtree(root)
        return STAND_IN

    def _all(self) -> dict[str, str]:
        return {**os.environ, **self.environment}


def _install_python(built: Path, root: Path) -> None:
    """Put this machine's Python under /usr/local, where the official image has it."""
    target = root / "usr/local"
    skipped = shutil.ignore_patterns("site-packages", "test", "idlelib", "__pycache__", "_tkinter*", "*.a")
    shutil.copytree(built / "lib/python3.11", target / "lib/python3.11", symlinks=True, ignore=skipped)
    (target / "lib/python3.11/site-packages").mkdir()
    for library in built.glob("lib/libpython3.11.so*"):
        shutil.copy2(library, target / "lib", follow_symlinks=False)
    shutil.copy2(built / "bin/python3.11", target / "bin")
    for name in ("python", "python3"):
        (target / "bin" / name).symlink_to("python3.11")
    (root / "etc/ld.so.conf.d/python.conf").write_text("/usr/local/lib\n")
    for command in (["ldconfig"], ["/usr/local/bin/python", "-m", "ensurepip", "--default-pip"]):
        subprocess.run(
            ["chroot", str(root), *command],
            check=True,
            capture_output=True,
            env={"PATH": "/usr/sbin:/usr/bin"},
        )


def _name_python(root: Path) -> None:
    """Give Debian's Python the official image's names, and let pip install."""
    (root / "usr/lib/python3.11/EXTERNALLY-MANAGED").unlink(missing_ok=True)
    for name in ("python", "python3", "python3.11"):
        (root / "usr/local/bin" / name).symlink_to("/usr/bin/python3.11")


def _import_image(root: Path, environment: Mapping[str, str]) -> None:
    changes = ("ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin", "ENV LANG=C.UTF-8")
    flags = [flag for change in changes for flag in ("-c", change)]
    with subprocess.Popen(["tar", "-C", str(root), "-c", "."], stdout=subprocess.PIPE) as tar:
        subprocess.run(
            ["podman", "import", "-q", *flags, "-", STAND_IN], stdin=tar.stdout, env=environment, check=True
        )


def _sources() -> list[str]:
    """The package sources of this machine, as mmdebstrap takes them."""
    found = [Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list")]
    return [str(path) for path in found if path.exists()][:1]


def _run(*command: str) -> None:
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=quiet)
