"""A user's own code: a function or a class that a sweep file names as `FILE.py:NAME` or `package.module:NAME`.

The text of a file is part of the setting. So it is part of every identity, goes to every worker, and is kept in the
results folder: a trial can be repeated after the file has changed. Code runs with the rights of the user who starts
the sweep.
"""

from __future__ import annotations

import hashlib
import importlib
import linecache
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from fl_core.base.device import out_of_memory
from fl_core.base.errors import InputError, first_line, hint, unknown_name
from fl_core.base.types import Config

MOST_BYTES = 1_000_000
"""A longer file is no module that a person wrote; its text is part of every trial's setting."""

_MODULES = "gradsweep_own_code"


class OwnCodeFailed(InputError):
    """A user's own code raised something, or returned what is of no use: a trial fails of it, and no other one."""


@dataclass(frozen=True, kw_only=True)
class OwnCode(Config):
    """A function or class of the user's own.

    `module` is the name of a Python file (`my_net.py`), whose text is `source`, or the dotted name of an installed
    module, whose `source` is None. `name` is the function or class in it.
    """

    module: str
    name: str
    source: str | None = field(default=None, repr=False)

    @property
    def place(self) -> str:
        """The code as a sweep file names it, such as `my_net.py:make`."""
        return f"{self.module}:{self.name}"

    @classmethod
    def read(cls, spec: str, folder: Path, *, where: str) -> OwnCode:
        """What `spec` names, with the text of its file; a relative path is one in `folder`.

        `where` is the setting that holds it, for messages. Nothing is run. Raises `InputError` for a spec of another
        form, a file that is missing, unreadable or too long, and a file that is no valid Python.
        """
        module, colon, name = spec.rpartition(":")
        if not (colon and module and name.isidentifier()):
            raise InputError(
                f"{where} = {spec!r}: must be FILE.py:NAME or package.module:NAME, such as my_net.py:make."
            )
        if not module.endswith(".py"):
            if not all(part.isidentifier() for part in module.split(".")):
                raise InputError(
                    f"{where} = {spec!r}: {module!r} is neither a file FILE.py nor a module's name."
                )
            return cls(module=module, name=name)
        path = folder / Path(module).expanduser()
        source = _text(path, where)
        try:
            compile(source, path.name, "exec")
        except (SyntaxError, ValueError) as error:
            line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
            reason = error.msg if isinstance(error, SyntaxError) else first_line(error)
            raise InputError(f"{where}: {path}{line}: not valid Python: {reason}.") from error
        return cls(module=path.name, name=name, source=source)

    def load(self) -> Any:
        """The function or class itself; a file is run once in each process.

        Raises `InputError` for a module that is not installed, a file that fails, and a name that it lacks.
        """
        module = _installed(self.module) if self.source is None else _from_text(self.module, self.source)
        try:
            return getattr(module, self.name)
        except AttributeError:
            held = {name: value for name, value in vars(module).items() if not name.startswith("_")}
            made = [
                name for name, value in held.items() if getattr(value, "__module__", "") == module.__name__
            ]
            known = made or list(held)
            raise unknown_name(f"name in {self.module}", self.name, known) from None

    @contextmanager
    def blamed(self, what: str, *, passing: tuple[type[Exception], ...] = ()) -> Iterator[None]:
        """While it lasts, what the code raises becomes `OwnCodeFailed` with the code, `what` it did, and the line.

        An `InputError` keeps its words, with the code and the line. What is `passing` stays what it is, and so does
        memory that has run out.
        """
        kept: tuple[type[Exception], ...] = (OwnCodeFailed, *passing)
        try:
            yield
        except kept:
            raise
        except InputError as error:
            raise OwnCodeFailed(f"{self.place}: {error}{_line(self, error)}") from error
        except SystemExit as error:
            # The end of the code is no end of ours, least of all one with exit code 0.
            raise OwnCodeFailed(f"{self.place} ended the program {what}{_line(self, error)}") from error
        except Exception as error:
            if out_of_memory(error):
                raise
            raise OwnCodeFailed(
                f"{self.place} failed {what}: {type(error).__name__}: {first_line(error)}{_line(self, error)}"
            ) from error

    def callable(self, what: str) -> Callable[..., Any]:
        """`load`, which must be a function or class; `what` it is to be is said where it is not."""
        found = self.load()
        if not callable(found):
            raise InputError(f"{self.place} is {type(found).__name__}: must be {what}.")
        return found  # type: ignore[no-any-return]  # whatever a user wrote


def in_a_file(kind: type) -> bool:
    """Whether a class stands in a file of the user's own, so that no other process can import it by its name."""
    return kind.__module__.startswith(f"{_MODULES}_")


def _text(path: Path, where: str) -> str:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise InputError(
                f"{where}: {path} has more than {MOST_BYTES:,} bytes; a module of code is shorter."
            )
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = hint(path.name, [each.name for each in _siblings(path)])
        raise InputError(f"{where}: {path} does not exist.{near}") from None
    except OSError as error:
        raise InputError(f"{where}: cannot read {path}: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: {path} is no text in UTF-8: {error.reason}.") from error


def _siblings(path: Path) -> list[Path]:
    try:
        return list(path.parent.glob("*.py"))
    except OSError:
        return []


def _installed(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = "" if error.name == name else f" (it needs {error.name!r})"
        raise InputError(
            f"Module {name!r} is not installed{missing}; install it on every machine, or name a file: FILE.py:NAME."
        ) from error
    except Exception as error:
        raise InputError(
            f"Module {name!r} failed on import: {type(error).__name__}: {first_line(error)}"
        ) from error


@cache
def _from_text(file: str, source: str) -> ModuleType:
    """The module of this text, which other processes make again from the same text."""
    digest = hashlib.sha256(source.encode()).hexdigest()[:12]
    name = f"{_MODULES}_{Path(file).stem}_{digest}"
    module = ModuleType(name, f"{file}, as the settings hold it")
    module.__file__ = file
    # So that a traceback shows the line, and that annotations in the text are resolved where it says.
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    sys.modules[name] = module
    try:
        exec(compile(source, name, "exec"), vars(module))
    except Exception as error:
        del sys.modules[name]
        code = OwnCode(module=file, name="", source=source)
        alone = isinstance(error, ModuleNotFoundError)
        rest = (
            "; a file that is named must hold all that it needs, or import what is installed."
            if alone
            else ""
        )
        raise InputError(
            f"{file} failed on import: {type(error).__name__}: {first_line(error)}{_line(code, error)}{rest}"
        ) from error
    return module


def _line(code: OwnCode, error: BaseException) -> str:
    """Where in the user's file an error came from."""
    if code.source is None:
        return ""
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename.startswith(f"{_MODULES}_{Path(code.module).stem}_")
    ]
    return f" ({code.module}, line {lines[-1]})" if lines else ""
