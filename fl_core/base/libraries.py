"""Optional libraries: imported on first use, with a message that says what to install where one is missing."""

from __future__ import annotations

import importlib
from types import ModuleType

from fl_core.base.errors import InputError


def library(name: str, remedy: str) -> ModuleType:
    """The module `name`; raises `InputError` with `remedy` where it is not installed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise InputError(f"The library {error.name} is not installed. {remedy}.") from error
