"""The one exception for mistakes that a person can correct."""

from __future__ import annotations

import difflib
import re
import textwrap
from collections.abc import Iterable

LONGEST = 500
"""At most so many characters has the line that says what is wrong."""

_LISTED = 300
"""At most so many characters of it list valid names."""


class InputError(ValueError):
    """Bad input: config, data, path, device.

    The message is one line that says what is wrong, where, which value, and what would be right; `one_line` sees to
    its form. The command line prints it and ends with exit code 2; it never becomes a traceback.
    """

    def __init__(self, message: object) -> None:
        super().__init__(one_line(str(message)))


class NotSummable(InputError):
    """A number that a secure sum cannot hold: not finite, or so large that the sum would wrap."""


def one_line(text: str, *, longest: int = LONGEST) -> str:
    """`text` as one line of at most `longest` characters, with escapes for what a terminal does not print.

    What is too long loses its middle: the beginning says where, the end says what would be right.
    """
    whole = text if len(text) <= 2 * longest else f"{text[:longest]}{text[-longest:]}"
    line = " ".join(whole.splitlines())
    shown = "".join(mark if mark.isprintable() else ascii(mark)[1:-1] for mark in line)
    if len(shown) <= longest:
        return shown
    end = longest * 2 // 5
    return f"{shown[: longest - end - 5]} ... {shown[-end:]}"


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its type where it says nothing."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def alike(text: str) -> str:
    """What errors and notes have in common that differ in numbers alone: the text with each number as 0."""
    return re.sub(r"\d[\d.,e+-]*", "0", text)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The valid name that was most likely meant by `name`; None where none is near.

    Of dotted names the last part alone may be given, and a name's words for their initials (`learning_rate`: lr).
    """
    names = [each for each in known if each != name]
    if len(name) > LONGEST:
        return None
    ends = sorted((each for each in names if each.rpartition(".")[2] == name), key=len)
    folded = {each.casefold(): each for each in names}
    close = [folded[each] for each in difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.55)]
    initials = "".join(word[:1] for word in name.replace("-", "_").split("_"))
    short = [each for each in names if len(initials) > 1 and each.rpartition(".")[2] == initials]
    return next(iter([*ends, *short, *close]), None)


def hint(name: str, known: Iterable[str]) -> str:
    """` Did you mean ...?`, or nothing where no valid name is near."""
    near = nearest(name, known)
    return f" Did you mean {near!r}?" if near else ""


def listed(names: Iterable[str]) -> str:
    """Names joined by commas, cut short where there are too many for one line."""
    return textwrap.shorten(", ".join(names), _LISTED, placeholder=" ...")


def unknown_name(what: str, name: str, known: Iterable[str]) -> InputError:
    """An `InputError` for `name`, with the nearest valid name and the list of `known` ones."""
    names = sorted(known)
    return InputError(f"Unknown {what} {name!r}.{hint(name, names)} Known: {listed(names)}.")


def natural(text: str) -> int | None:
    """The number that a few plain digits spell, such as a position in a list; None for anything else."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None
