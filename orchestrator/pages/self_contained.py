"""Templates of pages that need nothing else: one stylesheet, and one script that is allowed by its hash."""

from __future__ import annotations

import base64
import hashlib

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

_SHARED = "orchestrator.pages"


def environment(package: str) -> Environment:
    """Jinja's environment of a package's templates and the shared ones; what is put in is escaped.

    Beside the templates there are `script`, the text of the script for tables and pictures, and `script_hash`, what a
    page's content security policy allows it by.
    """
    found = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader(_SHARED)]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    source, _, _ = PackageLoader(_SHARED).get_source(found, "page.js")
    digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()

    found.globals |= {"script": source, "script_hash": f"sha256-{digest}"}
    return found


def data_uri(content: bytes, kind: str = "image/png") -> str:
    """A file's content as an address inside a page."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
