"""Where a local Ray keeps its files: a folder whose name is short enough for its sockets."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from fl_core.base.errors import InputError

MOST_BYTES = 103 if sys.platform == "darwin" else 107
"""The longest path of a Unix socket."""
BELOW = len("/ray/session_2026-01-02_03-04-05_678901_4194304/sockets/plasma_store")
"""What Ray adds to the folder, with the largest number that a process may have."""
SHORT = Path("/tmp")

log = logging.getLogger(__name__)


def scratch_folder(environment: Mapping[str, str]) -> str | None:
    """The folder to start Ray with instead of the one that the environment names; None where that will do.

    Raises `InputError` where a short folder is needed and `/tmp` cannot be written.
    """
    named = environment.get("RAY_TMPDIR") or environment.get("TMPDIR") or str(SHORT)
    if len(os.fsencode(named.rstrip("/"))) + BELOW <= MOST_BYTES and named.isascii():
        return None
    why = (
        f"Ray's sockets lie under TMPDIR ({named}), and their paths may have {MOST_BYTES} bytes, of which Ray takes "
        f"{BELOW}, all of them ASCII"
    )
    if not os.access(SHORT, os.W_OK):
        raise InputError(f"{why}; set RAY_TMPDIR to a shorter folder ({SHORT} cannot be written).")
    log.warning("%s; Ray uses %s/ray instead", why, SHORT)
    return str(SHORT / "ray")
