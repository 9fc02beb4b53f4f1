"""Result lines as benchmarks print them with `--json`."""

from __future__ import annotations

import statistics
from typing import Any


def line(
    name: str,
    value: float,
    unit: str,
    values: list[float],
    *,
    target: float | None = None,
    at_most: bool = False,
) -> dict[str, Any]:
    """One result: `spread` is the range of the values as a share of their median."""
    spread = (max(values) - min(values)) / statistics.median(values) if len(values) > 1 else 0.0
    ok = target is None or bool(value <= target if at_most else value >= target)
    return {
        "name": name,
        "value": value,
        "unit": unit,
        "target": target,
        "ok": ok,
        "spread": spread,
        "n": len(values),
    }


def missing(name: str, unit: str, reason: str) -> dict[str, Any]:
    """The line of what could not be measured."""
    return {"name": name, "value": None, "unit": unit, "target": None, "ok": True, "reason": reason}
