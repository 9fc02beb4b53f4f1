"""The page docs/sweep-file.md: every key of a sweep file, as the dataclasses declare it."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any, get_args, get_type_hints

from attack_core.attacks.registry import NAMED, AnyAttack
from attack_core.gradients.objectives import Objective
from attack_core.priors.priors import Prior
from defenses.chain import AnyDefense
from fl_core.data.partition import Partition
from orchestrator.config.explain import OWN
from orchestrator.config.space import Parameter
from orchestrator.config.sweep import SweepConfig
from orchestrator.reference.keys import Key, classes_in, keys_of

_HEAD = """# Sweep files

This page tells you every key that a sweep file may have: its type, its unit, its default and what it means.
`python scripts/sweep_reference.py` writes it from the dataclasses; a test fails where it is stale.
[axes.md](axes.md) says how to write many cells, [studies.md](studies.md) how attackers are tuned, and
`gradsweep schema` writes a JSON schema for your editor:

```sh
gradsweep schema --out sweep.schema.json
```

With the line `# yaml-language-server: $schema=sweep.schema.json` at its top, an editor completes and checks a sweep
file. `eval "$(gradsweep completion bash)"` completes commands and flags in your shell (`zsh` and `fish` too).

A file is YAML 1.2. An unknown key is refused with the nearest one. `--set KEY=VALUE` sets a key from the command line,
by its dotted path.

Units: `share` is a part of 1. `signal` is the unit of what a client releases: a gradient's, or a weight update's.
`normalised` is that of pixels after `model.mean` was taken off and they were divided by `model.std`. An empty unit is
that of a plain number, a switch or a name.
"""

_FILE = """Three more keys stand at the top of a file alone:

| key | type | unit | default | meaning |
|---|---|---|---|---|
| `axes` | mapping | | none | the values of settings, of which every combination becomes a cell: [axes.md](axes.md) |
| `scales` | mapping | | none | smaller or larger forms of the sweep by name: dotted keys and their values |
| `scale` | text | | none | the scale that is put in |
"""

_OWN = """### A class of your own

`kind: FILE.py:CLASS` with the fields of the class: [adding.md](adding.md).
"""

_UNIONS: tuple[tuple[str, Any, str], ...] = (
    ("federation.partition", Partition, "How the train split is divided among clients."),
    (
        "Defenses",
        AnyDefense,
        "An entry of `defense` has a `kind` and that kind's keys. "
        "[defenses/README.md](defenses/README.md) explains them.",
    ),
    (
        "Attacks",
        AnyAttack,
        "An `attack` is a name, or a mapping with a `name` and the keys that differ from it, or "
        "a mapping with a `kind`. The names are "
        f"{', '.join(f'`{name}`' for name in sorted(NAMED))}. [attacks.md](attacks.md) explains them.",
    ),
    ("Objectives", Objective, "What `matching` compares gradients by."),
    ("Priors", Prior, "What `matching` knows of images beforehand."),
    ("Search ranges", Parameter, "What a `search` maps a dotted path to."),
)
"""Places at which one of several kinds stands."""


def page() -> str:
    """The whole page."""
    hints = get_type_hints(SweepConfig)
    parts = [_HEAD, "## The top of a file\n", _table(keys_of(SweepConfig)), "", _FILE]
    shown = {each for _, union, _ in _UNIONS for each in classes_in(union)}
    for key in keys_of(SweepConfig):
        for kind in classes_in(hints[key.name]):
            parts += _section(key.name, kind, shown)
    for heading, union, text in _UNIONS:
        parts.append(f"## {heading}\n\n{text}\n")
        for kind in get_args(union):
            name = _kind(kind)
            if name == OWN:
                parts.append(_OWN)
            else:
                parts += _section(name, kind, shown, level="###")
    return "\n".join(parts).rstrip() + "\n"


def _section(heading: str, kind: type[Any], shown: set[type[Any]], *, level: str = "##") -> list[str]:
    """One class: what it is for, its keys, and those of the groups of settings in it."""
    keys = [key for key in keys_of(kind) if key.name != "kind" or len(_literals(key)) != 1]
    said = [f"{level} {heading}\n", f"{_escaped(inspect.getdoc(kind) or '')}\n"]
    return [*said, _table(_with_groups(keys, shown)), ""] if keys else said


def _with_groups(keys: list[Key], shown: set[type[Any]], before: str = "") -> list[Key]:
    """The keys, each group's own behind it, by their dotted paths; kinds that have a section are left out."""
    found = []
    for key in keys:
        name = f"{before}{key.name}"
        found.append(dataclasses.replace(key, name=name))
        for kind in classes_in(key.annotation):
            if kind not in shown and kind.__name__ not in ("OwnCode", "WeightsFile"):
                found += _with_groups(keys_of(kind), shown, f"{name}.")
    return found


def _table(keys: list[Key]) -> str:
    rows = [
        f"| `{key.name}` | {_escaped(key.type)} | {key.unit} | {_escaped(key.default)} | "
        f"{_escaped(key.meaning or 'see above')} |"
        for key in keys
    ]
    return "\n".join(["| key | type | unit | default | meaning |", "|---|---|---|---|---|", *rows])


def _kind(kind: type[Any]) -> str:
    return next(
        (str(key.annotation.__args__[0]) for key in keys_of(kind) if key.name == "kind"), kind.__name__
    )


def _literals(key: Key) -> tuple[Any, ...]:
    return get_args(key.annotation)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")
