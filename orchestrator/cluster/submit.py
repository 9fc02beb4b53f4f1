"""Sweeps as jobs of a Ray cluster, through its dashboard's Jobs API."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import shlex
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient

import orchestrator
from fl_core.base.errors import InputError, first_line
from orchestrator.cluster.access import HOW, Token, dashboard, sendable
from orchestrator.config.parse import sweep_tree
from orchestrator.io.provenance import provenance
from orchestrator.io.retries import patiently
from orchestrator.runtime.stop import EXIT_CODE

T = TypeVar("T")

_PACKAGES = ("fl_core", "attack_core", "defenses", "orchestrator")
_ATTEMPTS = 4
_STOP_SECONDS = 30
"""How long a stopped sweep has to write down what is finished."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class JobState:
    """What the cluster says of a job: `exit_code` is None while it runs."""

    status: str
    message: str
    exit_code: int | None


class Jobs:
    """The jobs of one cluster. Every call raises `InputError` where the cluster cannot be reached or refuses."""

    def __init__(self, address: str, token: Token | None) -> None:
        """Connect to the dashboard at `address`, such as http://127.0.0.1:8265; try again where it is busy."""
        self._address, self._token = address.rstrip("/"), token
        scheme, host, port = dashboard(address)
        if token and scheme == "http" and host not in ("127.0.0.1", "::1", "localhost"):
            _log.warning(
                "the token travels unencrypted to %s; a tunnel (ssh -L 8265:127.0.0.1:8265 HOST) hides it",
                host,
            )
        # Ray lets these win over the address that it is given.
        for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
            os.environ.pop(name, None)
        headers = {"Authorization": f"Bearer {token.secret}"} if token else {}

        def connect() -> JobSubmissionClient:
            # Without this, an address that swallows packets would be waited for without end.
            socket.create_connection((host, port), timeout=5.0).close()
            return JobSubmissionClient(self._address, headers=headers)

        self._client = self._call(connect)

    def submit(
        self, sweep: Path, *, out: str, overrides: Sequence[str], cells: Sequence[str], python: str
    ) -> str:
        """Submit the sweep with this code, and return the job's id.

        `out` is the results folder as the cluster's head sees it, `python` the command of its Python. What is sent
        is the sweep, the overrides and the own code that it names put in, and the four packages, nothing else. Raises
        `InputError` for a bad sweep or paths that mean nothing on the cluster.
        """
        config = sendable(sweep, out=out, overrides=overrides)
        job = f"gradsweep-{config.name}-{secrets.token_hex(4)}"
        words = [
            "-m",
            "orchestrator",
            "sweep",
            "sweep.yaml",
            "--address",
            "auto",
            "--out",
            out,
        ]
        words += [word for pattern in cells for word in ("--cells", pattern)]
        variables = {"COLUMNS": "120", "RAY_JOB_STOP_WAIT_TIME_S": str(_STOP_SECONDS)}
        if commit := provenance()["git_commit"]:
            variables["GIT_COMMIT"] = commit
        with tempfile.TemporaryDirectory() as folder:
            _stage(sweep_tree(sweep, overrides), Path(folder))

            def send() -> None:
                try:
                    self._client.submit_job(
                        entrypoint=f"exec {shlex.quote(python)} {shlex.join(words)}",
                        submission_id=job,
                        runtime_env={"working_dir": folder, "env_vars": variables},
                        metadata={"sweep": config.name, "out": out},
                    )
                except RuntimeError as error:
                    # An answer that was lost: the job is there, and a second one must not be.
                    if "already exists" not in str(error):
                        raise

            self._call(send)
        return job

    def state(self, job: str) -> JobState:
        """How the job stands; `InputError` where the cluster does not know it."""
        info = self._call(lambda: self._client.get_job_info(job))
        code = info.driver_exit_code
        match info.status:
            case JobStatus.SUCCEEDED:
                code = 0
            case JobStatus.FAILED:
                code = 1 if code is None else code if code >= 0 else 128 - code
            case JobStatus.STOPPED:
                code = EXIT_CODE
            case _:
                code = None
        return JobState(status=str(info.status.value), message=info.message or "", exit_code=code)

    def follow(self, job: str, write: Callable[[str], None]) -> JobState:
        """Pass the job's output to `write` until it ends; a lost connection is taken up where it broke off."""
        written = 0

        async def tail() -> None:
            nonlocal written
            seen = 0  # Every connection begins with the first line again.
            try:
                async for text in self._client.tail_job_logs(job):
                    seen += len(text)
                    if seen > written:
                        write(text[written - seen :])
                        written = seen
            except (OSError, RuntimeError, aiohttp.ClientError) as error:
                if not seen or not _transient(error):
                    raise

        while True:
            self._call(lambda: asyncio.run(tail()))
            state = self.state(job)
            if state.exit_code is not None:
                return state
            time.sleep(0.5)

    def stop(self, job: str) -> JobState:
        """Ask the job to stop, and wait until it has; what is finished stays, and the same sweep resumes it."""
        self._call(lambda: self._client.stop_job(job))
        deadline = time.monotonic() + 2 * _STOP_SECONDS
        while (state := self.state(job)).exit_code is None and time.monotonic() < deadline:
            time.sleep(0.5)
        return state

    def _call(self, call: Callable[[], T]) -> T:
        """Call the cluster; what is transient is tried again, what is not becomes one line."""
        try:
            return patiently(f"the cluster at {self._address}", call, _transient, tries=_ATTEMPTS)
        except AuthenticationError as error:
            if self._token is None:
                raise InputError(f"The cluster at {self._address} wants a token. {HOW}") from error
            raise InputError(
                f"The cluster at {self._address} refuses the token of {self._token.source}. {HOW}"
            ) from error
        except (OSError, aiohttp.ClientError) as error:
            raise InputError(
                f"No Ray dashboard answers at {self._address} ({_line(error)}); is the cluster up, and the tunnel?"
            ) from error
        except RuntimeError as error:
            raise InputError(f"The cluster at {self._address} refuses: {_line(error)}") from error


def _transient(error: BaseException) -> bool:
    """Whether a later try may help: lost connections, and errors that the server blames on itself."""
    if isinstance(error, RuntimeError):
        return "status code 5" in str(error) or "closed unexpectedly" in str(error)
    return isinstance(error, OSError | aiohttp.ClientError)


def _line(error: BaseException) -> str:
    return first_line(error)[:300]


def _stage(sweep: Mapping[str, Any], folder: Path) -> None:
    """What the job needs and nothing else: no repository, no data, no results."""
    root = Path(orchestrator.__file__).resolve().parents[1]
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")
    for package in _PACKAGES:
        shutil.copytree(root / package, folder / package, ignore=ignored)
    (folder / "sweep.yaml").write_text(json.dumps(sweep, indent=2), encoding="utf-8")
