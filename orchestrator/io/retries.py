"""Trying again what passes by itself, and nothing else: with a limit, and a line in the log for every try."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_exponential

from fl_core.base.errors import first_line

T = TypeVar("T")

log = logging.getLogger(__name__)

TRIES = 5
"""Tries of one action, over at most 8 seconds."""


def patiently(what: object, action: Callable[[], T], passes: Callable[[BaseException], bool]) -> T:
    """`action()`, tried again while it raises what `passes` by itself; other errors, and the last one, are raised."""

    def warn(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        line = first_line(error) if error else "?"
        log.warning("%s: %s; trying again (%d of %d)", what, line, state.attempt_number, TRIES - 1)

    retrying = Retrying(
        retry=retry_if_exception(passes),
        stop=stop_after_attempt(TRIES),
        wait=wait_exponential(0.5),
        before_sleep=warn,
        reraise=True,
    )
    return retrying(action)
