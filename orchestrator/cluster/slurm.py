"""Batch scripts for Slurm, filled in from settings that were checked; the scripts themselves lie in `slurm/`."""

from __future__ import annotations

import re
import shlex
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
    `at_once` of them at the same time.
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

    def directives(self) -> list[str]:
        """The `#SBATCH` lines."""
        asked = {
            "job-name": self.name,
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
        if self.array is None:
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
    template = home / "slurm" / ("sweep.sbatch" if job.array is None else "sweep_array.sbatch")
    if not template.is_file():
        raise InputError(f"There is no {template}; name the project's checkout with --home.")
    for what, value in (("sweep file", sweep), ("results folder", results), ("checkout", str(home))):
        if not value.isprintable():
            raise InputError(f"The {what} {value!r} has control characters in its name; rename it.")
    first, _, rest = template.read_text(encoding="utf-8").partition("\nset -euo pipefail\n")
    words = " ".join(shlex.quote(word) for word in (sweep, results, *flags))
    head = [
        first.splitlines()[0],
        *job.directives(),
        f"# From {template.name}, filled in by `gradsweep slurm render`; the functions are those of slurm/lib.sh.",
        *(
            []
            if job.array is None
            else [f"# Afterwards: gradsweep merge {shlex.quote(results)}/* --out MERGED"]
        ),
        f"export GRADSWEEP_HOME={shlex.quote(str(home))}",
        *([f"export GRADSWEEP_IMAGE={shlex.quote(job.image)}"] if job.image else []),
        f'set -- {words} "$@"',
        "set -euo pipefail",
    ]
    # The path is known where the script runs only, so there is nothing for a checker to follow.
    return "\n".join(head) + "\n" + rest.replace(_SOURCE, "# shellcheck source=/dev/null\n")
