"""The one exception for mistakes that a person can mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input: config, data, path, device.

    The message is one line that says what is wrong, where, which value, and what would be right.
    The command line prints it and ends with exit code 2; it never becomes a traceback.
    """


class NotSummable(InputError):
    """A number that a secure sum cannot hold: not finite, or so large that the sum would wrap."""


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its type where it says nothing."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def unknown_name(what: str, name: str, known: Iterable[str]) -> InputError:
    """An `InputError` for `name`, with the nearest valid name and the whole list of `known` ones."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return InputError(f"Unknown {what} {name!r}.{hint} Known: {', '.join(names)}.")
