"""Addresses of databases, which a sweep file may hold, and their passwords, which it may not."""

from __future__ import annotations

from urllib.parse import parse_qsl

from fl_core.base.errors import InputError

PASSWORD = "GRADSWEEP_STORAGE_PASSWORD"
"""The environment variable that holds the password of `study.storage`."""


def check_address(text: str) -> None:
    """Raise `InputError` unless `text` is a database's address without a password; a password is never repeated."""
    scheme, separator, rest = text.partition("://")
    if not separator or not scheme:
        raise InputError(
            "StudyConfig.storage: must be journal, null, or the address of a database such as "
            "sqlite:///studies.db or postgresql+psycopg://user@host/name."
        )
    # By hand: a password that was not escaped may hold what a parser takes for the end of it.
    user, _, _ = rest.rpartition("@")
    options = parse_qsl(rest.partition("?")[2], keep_blank_values=True)
    if ":" in user or any(word in key.lower() for key, _ in options for word in ("pass", "pwd", "secret")):
        raise InputError(
            "StudyConfig.storage: must be without a password, because sweep.json and the report repeat it; "
            f"put the password into the environment variable {PASSWORD}."
        )
