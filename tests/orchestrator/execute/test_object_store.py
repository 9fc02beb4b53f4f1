"""The pool of workers when Ray's object store is full, slow, or loses something: tried again, up to a limit."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray
import tenacity
from ray.exceptions import GetTimeoutError, ObjectFreedError, ObjectLostError, ObjectStoreFullError

from fl_core.base.errors import InputError
from orchestrator.execute.execute import DEATHS, Done, RayExecutor
from orchestrator.io.retries import TRIES


@pytest.fixture(scope="module")
def executor() -> Iterator[RayExecutor]:
    made = RayExecutor("local", workers=1, threads=1)
    made.submit("first", int)
    assert result(made, "first").result == 0, "its worker has started"
    yield made
    made.close()


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds between tries, without the waiting."""
    found: list[float] = []
    monkeypatch.setattr(tenacity.nap.time, "sleep", found.append)
    return found


def result(executor: RayExecutor, key: str) -> Done:
    while (done := executor.next_done(1.0)) is None:
        pass
    assert done.key == key
    return done


def failing(monkeypatch: pytest.MonkeyPatch, name: str, error: Exception, times: int) -> Callable[..., Any]:
    """Let the first `times` calls of `ray.put` or `ray.get` raise."""
    real, left = getattr(ray, name), [times]

    def call(*arguments: Any, **options: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise error
        return real(*arguments, **options)

    monkeypatch.setattr(ray, name, call)
    return call


def lost(folder: Path, times: int, error: Callable[[], Exception]) -> str:
    """A job that raises in its worker the first `times` times. An error as an argument would be Ray's own word."""
    starts = len(list(folder.iterdir()))
    (folder / str(starts)).touch()
    if starts < times:
        raise error()
    return "there"


def gone() -> ObjectLostError:
    return ObjectLostError("0" * 56, None, "")


@pytest.mark.slow
def test_a_store_that_is_full_for_a_moment_is_asked_again(
    executor: RayExecutor,
    monkeypatch: pytest.MonkeyPatch,
    naps: list[float],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        failing(monkeypatch, "put", ObjectStoreFullError("no room"), 2)
        executor.submit("a", sum, executor.share([1, 2]))
        failing(monkeypatch, "get", GetTimeoutError("slow"), 1)
        assert result(executor, "a").result == 3
    assert naps == [0.5, 1.0, 0.5]
    said = [record.getMessage() for record in caplog.records]
    assert said[0].startswith("a shared value: ")
    assert said[1].endswith(f"trying again (2 of {TRIES - 1})")
    assert said[2].startswith("the result of job a: ")


def test_a_store_that_stays_full_ends_with_what_would_help(
    executor: RayExecutor, monkeypatch: pytest.MonkeyPatch, naps: list[float]
) -> None:
    failing(monkeypatch, "put", ObjectStoreFullError("no room"), 99)
    with pytest.raises(InputError, match="give it more memory"):
        executor.share([1])
    assert len(naps) == TRIES - 1


@pytest.mark.parametrize("error", [gone, partial(ObjectStoreFullError, "no room")])
def test_a_job_that_the_store_failed_runs_again_on_the_same_worker(
    executor: RayExecutor, tmp_path: Path, caplog: pytest.LogCaptureFixture, error: Callable[[], Exception]
) -> None:
    members = list(executor._members)
    with caplog.at_level(logging.WARNING):
        executor.submit("b", lost, tmp_path, DEATHS - 1, error)
        assert result(executor, "b").result == "there"
    assert [r.getMessage()[:16] for r in caplog.records] == ["Job b runs again"] * (DEATHS - 1)
    assert executor._members == members, "no process was given up"


def test_a_result_that_is_lost_here_is_computed_again(
    executor: RayExecutor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    failing(monkeypatch, "get", gone(), 1)
    executor.submit("c", lost, tmp_path, 0, gone)
    assert result(executor, "c").result == "there"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_job_that_the_store_fails_for_good_ends_with_the_reason(
    executor: RayExecutor, tmp_path: Path
) -> None:
    executor.submit("d", lost, tmp_path, 99, gone)
    assert isinstance(result(executor, "d").error, ObjectLostError)
    assert len(list(tmp_path.iterdir())) == DEATHS


class Unreadable:
    """Comes back as nothing that can be read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return int, ("no number",)


def unreadable() -> Unreadable:
    return Unreadable()


@pytest.mark.parametrize(
    "error",
    [
        partial(ValueError, "a mistake"),
        partial(ObjectFreedError, "0" * 56, None, ""),
        partial(OSError, 5, "a job's own"),
    ],
)
def test_mistakes_are_never_tried_again(
    executor: RayExecutor,
    tmp_path: Path,
    naps: list[float],
    caplog: pytest.LogCaptureFixture,
    error: Callable[[], Exception],
) -> None:
    members = list(executor._members)
    with caplog.at_level(logging.WARNING):
        executor.submit("e", lost, tmp_path, 99, error)
        assert type(result(executor, "e").error) is type(error())
        executor.submit("f", unreadable)
        assert "no number" in str(result(executor, "f").error)
    assert len(list(tmp_path.iterdir())) == 1
    assert not naps
    assert not [record for record in caplog.records if record.name.startswith("orchestrator")]
    assert executor._members == members
