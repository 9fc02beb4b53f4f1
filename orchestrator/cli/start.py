"""The door of the command line: where its libraries are not installed, it says so in one line."""

from __future__ import annotations

import sys
from collections.abc import Sequence

INSTALL = 'pip install "gradsweep[all]"'
"""What installs everything that the command line needs."""

BAD_INPUT = 2


def main(arguments: Sequence[str] | None = None) -> None:
    """`orchestrator.cli.main.main`; ends with exit code 2 where a library of an extra is missing."""
    try:
        from orchestrator.cli.main import main as run

        run(arguments)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("", "orchestrator", "fl_core", "attack_core", "defenses"):
            raise
        sys.stderr.write(
            f"gradsweep: The library {missing} is not installed, which the command line needs: {INSTALL}\n"
        )
        sys.exit(BAD_INPUT)
