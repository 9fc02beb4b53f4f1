"""Writes that are whole or not there, and what is tried again."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import tenacity

from fl_core.base.errors import InputError
from orchestrator.io.files import (
    Damaged,
    append_line,
    persistently,
    read_bytes,
    read_json,
    write_atomically,
    write_json,
)
from orchestrator.io.retries import TRIES


@dataclass(frozen=True)
class Content:
    config: dict[str, int]


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that were waited between tries, without the waiting."""
    found: list[float] = []
    monkeypatch.setattr(tenacity.nap.time, "sleep", found.append)
    return found


def breaking(monkeypatch: pytest.MonkeyPatch, reason: BaseException, times: int) -> list[int]:
    """Let the first `times` calls of `os.fsync` on files raise; the calls are counted in the list."""
    real, calls = os.fsync, [0]

    def fsync(descriptor: int) -> None:
        calls[0] += 1
        if calls[0] <= times:
            raise reason
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    return calls


WRITES: dict[str, Callable[[Path], None]] = {
    "replace": lambda path: write_atomically(path, b"old\nnew\n"),
    "append": lambda path: append_line(path, b"new\n"),
}


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("reason", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
def test_what_passes_by_itself_is_tried_again_with_a_log_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    naps: list[float],
    caplog: pytest.LogCaptureFixture,
    write: str,
    reason: int,
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old\n")
    breaking(monkeypatch, OSError(reason, os.strerror(reason)), 2)
    with caplog.at_level(logging.WARNING):
        WRITES[write](path)
    assert path.read_bytes() == b"old\nnew\n", "no line is doubled or torn"
    assert naps == [0.5, 1.0]
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: [Errno {reason}] {os.strerror(reason)}; trying again ({n} of {TRIES - 1})" for n in (1, 2)
    ]


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize(
    ("reason", "tries", "remedy"),
    [
        (errno.EIO, TRIES, "mend that"),
        (errno.ENOSPC, 1, "free some space"),
        (errno.EDQUOT, 1, "free some space"),
        (errno.EROFS, 1, "mend that"),
        (errno.EACCES, 1, "mend that"),
    ],
)
def test_what_does_not_pass_is_one_line_and_leaves_the_file_as_it_was(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    naps: list[float],
    write: str,
    reason: int,
    tries: int,
    remedy: str,
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old\n")
    calls = breaking(monkeypatch, OSError(reason, os.strerror(reason)), 99)
    with pytest.raises(InputError) as raised:
        WRITES[write](path)
    assert str(raised.value) == (
        f"Cannot write {path}: {os.strerror(reason)}; {remedy} and run the same command again to resume."
    )
    assert calls == [tries]
    assert len(naps) == tries - 1
    assert path.read_bytes() == b"old\n"
    assert list(tmp_path.iterdir()) == [path], "no scratch file keeps the disk full"


@pytest.mark.parametrize("write", WRITES)
def test_programming_errors_and_interruptions_are_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, naps: list[float], write: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old\n")
    for reason in (TypeError("a mistake"), KeyboardInterrupt()):
        with monkeypatch.context() as patched:
            calls = breaking(patched, reason, 99)
            with pytest.raises(type(reason)):
                WRITES[write](path)
        assert calls == [1]
        assert path.read_bytes() == b"old\n"
    assert not naps


def test_reads_are_tried_again_too_and_a_missing_file_is_missing(tmp_path: Path, naps: list[float]) -> None:
    results = iter([OSError(errno.ESTALE, "stale"), OSError(errno.EIO, "input/output"), b"whole"])

    def read() -> bytes:
        result = next(results)
        if isinstance(result, OSError):
            raise result
        return result

    assert persistently(tmp_path, read) == b"whole"
    assert len(naps) == 2
    with pytest.raises(FileNotFoundError):
        read_bytes(tmp_path / "absent")
    with pytest.raises(InputError, match=r"Cannot read .*: Is a directory"):
        read_bytes(tmp_path)
    assert len(naps) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"format": 1}', "has format 1, this gradsweep writes and reads 2; use another --out"),
        ('{"config": {}}', "has format None"),
        ('{"format": 2, "conf', "is damaged"),
        ("[]", r"is damaged \(no JSON object\); restore it, or use another --out"),
        ("[" * 99_999, r"is damaged \(nested too deeply\)"),
        ("null", "is damaged"),
        ('{"format": 2}', r"is damaged \(config: Field required\)"),
        ('{"format": 2, "config": 1}', r"is damaged \(config: Input should be an object\)"),
        ('{"format": 2, "config": {}, "checksum": "0"}', r"is damaged \(its checksum differs\)"),
    ],
)
def test_files_of_other_formats_and_damaged_ones_are_refused_by_name(
    tmp_path: Path, content: str, message: str
) -> None:
    path = tmp_path / "sweep.json"
    path.write_text(content)
    with pytest.raises(InputError, match=message) as raised:
        read_json(Content, path, version=2)
    assert str(path) in str(raised.value)


def test_json_comes_back_as_it_was_and_a_changed_digit_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "sweep.json"
    write_json(path, {"format": 2, "config": {"a": 1}})
    assert read_json(Content, path, version=2) == Content({"a": 1})
    path.write_text(path.read_text().replace('"a": 1', '"a": 2'))
    with pytest.raises(Damaged, match="its checksum differs"):
        read_json(Content, path, version=2)
    path.write_text('{"format": 2, "config": {"a": 2}}')
    assert read_json(Content, path, version=2) == Content({"a": 2}), "earlier versions wrote no checksum"


def test_a_full_device_is_met_for_real(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(InputError, match=r"Cannot write /dev/full: No space left on device; free some space"):
        append_line(full, b"line\n")
