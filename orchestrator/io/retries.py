"""Retries of transient errors and of nothing else: with a limit, and a line in the log for every retry."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_exponential

from fl_core.base.errors import first_line

T = TypeVar("T")

log = logging.getLogger(__name__)

TRIES = 5
"""Tries of one action where nothing else is said, over at most 8 seconds."""


def patiently(
    what: object,
    action: Callable[[], T],
    passes: Callable[[BaseException], bool],
    *,
    tries: int = TRIES,
    wait: float = 0.5,
    between: Callable[[], None] = lambda: None,
) -> T:
    """`action()`, tried again while it raises what `passes` by itself; other errors, and the last one, are raised.

    There are `tries` in all; the first pause is `wait` seconds, each further one twice as long. `between` two tries is
    for what has to be put in order first.
    """

    def prepare(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        line = first_line(error.__cause__ or error) if error else "?"
        log.warning("%s: %s; trying again (%d of %d)", what, line, state.attempt_number, tries - 1)
        between()

    retrying = Retrying(
        retry=retry_if_exception(passes),
        stop=stop_after_attempt(tries),
        wait=wait_exponential(wait),
        before_sleep=prepare,
        reraise=True,
    )
    return retrying(action)
