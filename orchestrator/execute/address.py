"""Where a person says that jobs run: by a word, or by the address of a Ray cluster."""

from __future__ import annotations

import os

from fl_core.base.errors import InputError, unknown_name

ADDRESSES = ("serial", "local", "auto")
"""Where to run, but for the address of a cluster."""


def named_address(address: str) -> str:
    """The address with `auto` made definite where RAY_ADDRESS says what it is; raises `InputError` for another word."""
    named = os.environ.get("RAY_ADDRESS", address) if address == "auto" else address
    if ":" not in named and named not in ADDRESSES:
        raise InputError(f"{unknown_name('--address', named, ADDRESSES)} Or a Ray cluster's HOST:PORT.")
    return named
