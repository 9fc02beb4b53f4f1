"""What a submission needs before it reaches a cluster: a sweep that means something there, an address, a token."""

from __future__ import annotations

import shlex
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from fl_core.base.errors import InputError
from orchestrator.config.parse import load_sweep
from orchestrator.config.sweep import SweepConfig


@dataclass(frozen=True)
class Token:
    """A cluster's secret, and where it came from in words that may be shown."""

    secret: str
    source: str

    def __repr__(self) -> str:
        return f"Token(from {self.source})"


def sendable(sweep: Path, *, out: str, overrides: Sequence[str]) -> SweepConfig:
    """The sweep of a file; raises `InputError` for a bad one, and for paths that mean nothing on a cluster."""
    config = load_sweep(sweep, overrides)
    if not PurePosixPath(out).is_absolute():
        raise InputError(f"--out {out!r}: must be a full path, on the cluster, where results are to stay.")
    if not PurePosixPath(config.data.root).is_absolute():
        raise InputError(
            f"data.root = {config.data.root!r} is a folder of this machine; name the one that every node of the "
            "cluster sees with --set data.root=/FULL/PATH."
        )
    return config


def dashboard(address: str) -> tuple[str, str, int]:
    """Scheme, host and port of a dashboard's address; raises `InputError` for what is none."""
    try:
        parts = urlsplit(address.rstrip("/"))
        host, port = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:  # A port that is none, or half a bracket.
        parts, host, port = urlsplit(""), None, 0
    if parts.scheme not in ("http", "https") or not host:
        raise InputError(
            f"--address {address!r}: must be a dashboard's address, such as http://127.0.0.1:8265."
        )
    return parts.scheme, host, port


def find_token(environment: Mapping[str, str]) -> Token:
    """The token where Ray looks for it: RAY_AUTH_TOKEN, the file RAY_AUTH_TOKEN_PATH, `~/.ray/auth_token`.

    Raises `InputError` where there is none, and for a named file that others can read.
    """
    if secret := environment.get("RAY_AUTH_TOKEN", "").strip():
        return Token(secret, "RAY_AUTH_TOKEN")
    named = environment.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else Path.home() / ".ray" / "auth_token"
    try:
        secret = path.read_text(encoding="utf-8").strip()
        others = stat.S_IMODE(path.stat().st_mode) & 0o077
    except OSError as error:
        if named:
            raise InputError(f"Cannot read the token file {path} ({error.strerror}). {HOW}") from error
        raise InputError(f"There is no token for the cluster. {HOW}") from error
    if others and named:
        raise InputError(f"The token file {path} can be read by others; chmod 600 {shlex.quote(str(path))}.")
    if not secret:
        raise InputError(f"The token file {path} is empty. {HOW}")
    return Token(secret, str(path))


HOW = (
    "Ask whoever runs the cluster for its token, keep it in a file of mode 600 and name that with "
    "RAY_AUTH_TOKEN_PATH; for a cluster of your own, `ray get-auth-token --generate` makes one. "
    "A cluster without tokens needs --no-token."
)
