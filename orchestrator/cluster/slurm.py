"""Batch scripts for Slurm, filled in from settings that were checked; the scripts themselves lie in `slurm/`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fl_core.base.errors import InputError
from fl_core.base.types import Config, require

_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._,@+-]*")
_TIME = re.compile(r"\d+(:\d\d){0,2}|\d+-\d{1,2}(:\d\d){0,2}")
_MEMORY = re.compile(r"\d+[KMGT]?")

_SOURCE = "# shellcheck source=slurm/lib.sh\n"


@dataclass(frozen=True, kw_only=True)
class SlurmJob(Config):
    """What a job asks Slurm for; every value is checked, because it ends up in a script.

    `cpus`, `gpus` and `memory` (such as 64G) are for each node. `time` is Slurm's: MINUTES, HH:MM:SS or
    D-HH:MM:SS. `notice` is how many seconds before it the sweep is told to stop. `image` is a path of an
    Apptainer image. With `array` (how many cells there are) each cell is an element of its own, at most
    `at_once` of them at the same time. With `workers` the job has head and driver, and so many jobs of the same size
    join it.
    """

    name: str = "gradsweep"
    nodes: int = 1
    cpus: int = 8
    gpus: int = 0
    memory: str | None = None
    time: str = "08:00:00"
    notice: int = 120
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    image: str | None = None
    array: int | None = None
    at_once: int | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        for field in ("name", "partition", "account", "qos"):
            value = getattr(self, field)
            fits = value is None or _WORD.fullmatch(value) is not None
            require(fits, self, field, "letters, digits and . _ , @ + -, beginning with a letter or digit")
        require(_TIME.fullmatch(self.time) is not None, self, "time", "MINUTES, HH:MM:SS or D-HH:MM:SS")
        right = self.memory is None or _MEMORY.fullmatch(self.memory) is not None
        require(right, self, "memory", "a number with K, M, G or T, such as 64G")
        for field in ("nodes", "cpus"):
            require(getattr(self, field) >= 1, self, field, "at least 1")
        require(self.gpus >= 0, self, "gpus", "at least 0")
        require(self.notice >= 30, self, "notice", "at least 30: stopping takes up to 20 seconds")
        require(
            self.image is None or self.image.isprintable(), self, "image", "a path without control characters"
        )
        require(self.array is None or self.nodes == 1, self, "nodes", "1 in an array: each cell has one node")
        require(self.at_once is None or self.at_once >= 1, self, "at_once", "at least 1")
        require(self.at_once is None or self.array is not None, self, "at_once", "given with an array only")
        require(self.workers is None or self.workers >= 1, self, "workers", "at least 1")
        alone = self.nodes == 1 and self.array is None
        require(self.workers is None or alone, self, "workers", "given with one node, and without an array")

    @property
    def template(self) -> str:
        """The script in `slurm/` that this job is made of."""
        if self.workers is not None:
            return "elastic.sbatch"
        return "sweep.sbatch" if self.array is None else "sweep_array.sbatch"

    def directives(self, *, of_workers: bool = False) -> list[str]:
        """The `#SBATCH` lines, of the job or of its workers."""
        asked = {
            "job-name": f"{self.name}-worker" if of_workers else self.name,
            "nodes": self.nodes,
            "ntasks-per-node": 1,
            "cpus-per-task": self.cpus,
            "gpus-per-node": self.gpus or None,
            "mem": self.memory,
            "time": self.time,
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "signal": f"B:USR1@{self.notice}",
            "open-mode": "append",
        }
        lines = [f"--{key}={value}" for key, value in asked.items() if value is not None]
        lines += ["--requeue", "--no-kill"]
        if of_workers:
            lines += [f"--array=1-{self.workers}", "--output=gradsweep-%A_%a.out"]
        elif self.array is None:
            lines.append("--output=gradsweep-%j.out")
        else:
            limit = f"%{self.at_once}" if self.at_once else ""
            lines += [f"--array=0-{self.array - 1}{limit}", "--output=gradsweep-%A_%a.out"]
        return [f"#SBATCH {line}" for line in lines]


def render(job: SlurmJob, *, home: Path, sweep: str, results: str, flags: tuple[str, ...] = ()) -> str:
    """The script that runs the sweep file `sweep` into the folder `results`, for `sbatch`.

    `home` is the project's checkout on the cluster, whose `slurm/` has the functions; `flags` go to
    `gradsweep sweep`, and so do words that are given to `sbatch` after the script. Raises `InputError` where
    `home` is no checkout.
    """
    for what, value in (("sweep file", sweep), ("results folder", results)):
        if not value.isprintable():
            raise InputError(f"The {what} {value!r} has control characters in its name; rename it.")
    words = " ".join(shlex.quote(word) for word in (sweep, results, *flags))
    after = [f"# Afterwards: gradsweep merge {shlex.quote(results)}/* --out MERGED"] if job.array else []
    return _filled(job, home, job.template, job.directives(), after, words)


def render_workers(job: SlurmJob, *, home: Path) -> str:
    """The script of the job's `workers`, for `sbatch SCRIPT HEAD` with the id of the job; errors as in `render`."""
    return _filled(job, home, "elastic_worker.sbatch", job.directives(of_workers=True), [], "")


def _filled(
    job: SlurmJob, home: Path, name: str, directives: Sequence[str], remarks: Sequence[str], words: str
) -> str:
    """A script of `slurm/` with these lines for Slurm, and `words` before those that it is submitted with."""
    template = home / "slurm" / name
    if not template.is_file():
        raise InputError(f"There is no {template}; name the project's checkout with --home.")
    if not str(home).isprintable():
        raise InputError(f"The checkout {str(home)!r} has control characters in its name; rename it.")
    first, _, rest = template.read_text(encoding="utf-8").partition("\nset -euo pipefail\n")
    head = [
        first.splitlines()[0],
        *directives,
        f"# From {name}, filled in by `gradsweep slurm render`; the functions are those of slurm/lib.sh.",
        *remarks,
        f"export GRADSWEEP_HOME={shlex.quote(str(home))}",
        *([f"export GRADSWEEP_IMAGE={shlex.quote(job.image)}"] if job.image else []),
        *([f'set -- {words} "$@"'] if words else []),
        "set -euo pipefail",
    ]
    # The path is known where the script runs only, so there is nothing for a checker to follow.
    return "\n".join(head) + "\n" + rest.replace(_SOURCE, "# shellcheck source=/dev/null\n")
