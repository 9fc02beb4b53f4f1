"""Classes of the user's own in a sweep file: a defense, an attack, an objective, a prior, by `FILE.py:CLASS`."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

from pydantic.errors import PydanticUserError

from attack_core.base.types import Attack
from defenses.mechanism.base import STAGES, Mechanism
from fl_core.base.errors import InputError, first_line, hint, listed
from fl_core.base.own_code import OwnCode
from fl_core.base.own_object import from_plain
from fl_core.base.types import Config, Tensors
from fl_core.federation.client import Batch
from orchestrator.config.explain import OWN
from orchestrator.config.plain import build, to_plain

_Node = dict[str, Any]

_SETTINGS = "numbers, texts, truth values, Literals, tuples, lists and mappings of them, and dataclasses of such fields"
"""What the fields of an own class may hold."""

_OF_LIBRARIES = (Tensors, Batch)
"""Our names for types of libraries."""

_TEXTS = re.compile(r"'[^']*'|\"[^\"]*\"")
"""The texts in an annotation, as those of a `Literal`."""


def anchor_own(tree: _Node, folder: Path) -> None:
    """Let every class that `tree` names by a file be one in `folder`, in place, where the file's path is relative."""
    for _, node, _ in _kinds(tree):
        node["kind"] = code_in(str(node["kind"]), folder)


def code_in(spec: str, folder: Path) -> str:
    """`FILE.py:NAME` with the file in `folder`, where its path is relative; any other text as it is."""
    module, colon, name = spec.rpartition(":")
    return f"{folder / Path(module).expanduser()}:{name}" if colon and module.endswith(".py") else spec


def spell_own(tree: _Node, *, where: str) -> None:
    """Replace every class that `tree` names by its text and its settings, in place, and check both (`settle_own`).

    `{kind: FILE.py:CLASS, sigma: 0.1}` becomes `{kind: own, code: ..., settings: {sigma: 0.1}}`.
    """
    for place, node, _ in list(_kinds(tree)):
        if ":" in str(node["kind"]):
            code = OwnCode.read(str(node.pop("kind")), Path(), where=f"{where}: {place}.kind")
            settings = dict(node)
            node.clear()
            node |= {"kind": OWN, "code": dataclasses.asdict(code), "settings": settings}
    settle_own(tree, where=where)


def settle_own(tree: _Node, *, where: str) -> None:
    """Build every object of the user's own classes in `tree` once, and write out all of its settings, in place.

    Raises `InputError` for a class that is not what it stands for, settings that there are none of, wrong types, and
    what the class itself refuses.
    """
    for place, node, role in list(_kinds(tree)):
        if node["kind"] == OWN and isinstance(node.get("code"), dict):
            at = f"{where}: {place}" if where else place
            code = build(OwnCode, node["code"], where=f"{at}.code")
            node["settings"] = _settled(code, role, node.get("settings", {}), where=f"{at} ({code.place})")


def reach(tree: object, dotted: str) -> str:
    """The path to a value that a person names by `dotted`: own settings lie in `settings`, which may be left out."""
    found: list[str] = []
    node: Any = tree
    for part in dotted.split("."):
        if _is_own(node) and part != "settings":
            found.append("settings")
            node = node["settings"]
        found.append(part)
        if isinstance(node, dict):
            node = node.get(part)
        else:
            node = (
                node[int(part)]
                if isinstance(node, list) and part.isdigit() and int(part) < len(node)
                else None
            )
    return ".".join(found)


def shown(config: object) -> Any:
    """A config, plain or not, as a person reads it: an own class by its name, with its settings, without its text."""
    return _shown(to_plain(config) if dataclasses.is_dataclass(config) else config)


def settings_of(node: _Node) -> _Node:
    """The settings of a plain defense or attack, whoever wrote it."""
    found: _Node = node["settings"] if _is_own(node) else node
    return found


def _shown(node: Any) -> Any:
    if isinstance(node, list):
        return [_shown(each) for each in node]
    if not isinstance(node, dict):
        return node
    if _is_own(node):
        code, settings = node["code"], node["settings"]
        return {"kind": f"{code['module']}:{code['name']}"} | {
            key: _shown(each) for key, each in settings.items()
        }
    return {key: _shown(each) for key, each in node.items()}


def _is_own(node: Any) -> bool:
    return isinstance(node, dict) and node.get("kind") == OWN and {"code", "settings"} <= node.keys()


def _kinds(node: Any, place: str = "", role: str = "") -> Iterator[tuple[str, _Node, str]]:
    """Every mapping with a `kind` that stands where own code may stand: its place and its role, inner ones first."""
    if isinstance(node, list):
        for i, each in enumerate(node):
            yield from _kinds(each, f"{place}.{i}", role)
    elif isinstance(node, dict):
        for key, each in node.items():
            yield from _kinds(each, f"{place}.{key}".lstrip("."), key if key in _CHECKS else "")
        if role and isinstance(node.get("kind"), str):
            yield place, node, role


def _settled(code: OwnCode, role: str, settings: object, *, where: str) -> _Node:
    """All settings of an object of the class, as plain data."""
    kind: Any = code.load()
    wrong = None if isinstance(kind, type) else f"is {type(kind).__name__}: must be a class"
    wrong = wrong or _no_dataclass(kind) or _CHECKS[role](kind)
    if wrong:
        raise InputError(f"{where}: {wrong}.")
    if unknown := _no_setting(kind):
        raise InputError(f"{where}: a field is no setting: it must be {_SETTINGS} ({unknown}).")
    with code.blamed("in the types of its fields"):
        get_type_hints(kind)
    try:
        with code.blamed(
            f"with the settings {json.dumps(settings)}", passing=(InputError, PydanticUserError)
        ):
            built = build(_strict(kind), settings, where=where)
            plain: _Node = {name: value for name, value in to_plain(built).items() if name != "kind"}
            again = from_plain(kind, plain)
    except PydanticUserError as error:
        reason = first_line(error).partition(". Set")[0]
        if error.code == "class-not-fully-defined":
            reason = "one is of a type that holds tensors or that cannot be found"
        raise InputError(f"{where}: a field is no setting: it must be {_SETTINGS} ({reason}).") from error
    if any(getattr(again, name) != getattr(built, name) for name in plain):
        raise InputError(f"{where}: its fields must be {_SETTINGS}.")
    return plain


def _no_setting(kind: type[Any]) -> str | None:
    """A field of a type that holds tensors; None where there is none.

    Its name stands for one that type checkers alone know, since it is of a library that is not loaded here.
    """
    module = sys.modules.get(kind.__module__)
    names = {} if module is None else vars(module)
    for each in dataclasses.fields(kind):
        words = re.findall(r"\w+", _TEXTS.sub("", str(each.type)))
        if any(names.get(word) is name for word in words for name in _OF_LIBRARIES):
            return f"{each.name}: {each.type}"
    return None


@cache
def _strict(kind: type[Any]) -> type[Any]:
    """The class with the parsing of every `Config`: no unknown keys, no types but those that are asked for."""
    if issubclass(kind, Config):
        return kind
    return type(kind.__name__, (kind, Config), {"__module__": kind.__module__, "__doc__": kind.__doc__})


def _no_dataclass(kind: type[Any]) -> str | None:
    """Why the class can't be one of settings; None where it can."""
    parameters = vars(kind).get("__dataclass_params__")
    if parameters is None or not parameters.frozen:
        return "must be a frozen dataclass: put @dataclass(frozen=True, kw_only=True) above the class"
    return None


def _no_defense(kind: type[Any]) -> str | None:
    if not issubclass(kind, Mechanism):
        return "must derive from Mechanism (defenses.mechanism.base)"
    open_to = [stage for stage in STAGES if stage != "sum"]
    stage = getattr(kind, "stage", None)
    if stage not in open_to:
        given = f"{stage!r}" if stage is not None else "missing"
        return f"stage is {given}: must be one of {listed(open_to)}, as `stage: ClassVar[Stage] = 'noise'`"
    if not inspect.getmodule(kind.on_sum) or not kind.on_sum.__module__.startswith("defenses."):
        return "has on_sum, but how updates are added is not open to own code"
    for name in dir(kind):
        if name.startswith("on_") and not hasattr(Mechanism, name):
            hooks = [hook for hook in dir(Mechanism) if hook.startswith("on_") and hook != "on_sum"]
            return f"has {name}, which is no hook.{hint(name, hooks)} The hooks are {listed(hooks)}"
    return _other_arguments(kind, Mechanism)


def _no_attack(kind: type[Any]) -> str | None:
    if not issubclass(kind, Attack):
        return "must derive from Attack (attack_core.base.types)"
    missing = sorted(kind.__abstractmethods__)
    if missing:
        return f"must have {' and '.join(missing)}, as every Attack has"
    return _other_arguments(kind, Attack)


def _without(method: str, arguments: str) -> Callable[[type[Any]], str | None]:
    def check(kind: type[Any]) -> str | None:
        wanted = f"{method}(self, {arguments})"
        if not callable(getattr(kind, method, None)):
            return f"must have a method {wanted}"
        names = ["self", *arguments.split(", ")]
        return None if _takes(kind, method, names, {}) else f"{method} must take what it is given: {wanted}"

    return check


def _other_arguments(kind: type[Any], base: type[Any]) -> str | None:
    """Which method of a class cannot be called as that of `base` is; None where all can."""
    for method in (name for name, value in vars(base).items() if inspect.isfunction(value)):
        special = method.startswith("__") and method != "__call__"
        if special or getattr(kind, method) is getattr(base, method):
            continue
        parameters = inspect.signature(getattr(base, method)).parameters.values()
        alone = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY]
        inner = [each.name for each in parameters if each.name not in alone]
        if not _takes(kind, method, inner, dict.fromkeys(alone)):
            named = [*inner, *(["*", *alone] if alone else [])]
            return f"{method} must take what it is given: {method}({', '.join(named)})"
    return None


def _takes(kind: type[Any], method: str, names: list[str], named: dict[str, None]) -> bool:
    try:
        inspect.signature(getattr(kind, method)).bind(*names, **named)
    except TypeError:
        return False
    except ValueError:
        return True  # Written in C, or wrapped so that nothing tells.
    return True


_CHECKS: dict[str, Callable[[type[Any]], str | None]] = {
    "defense": _no_defense,
    "attack": _no_attack,
    "objective": _without("loss", "terms"),
    "priors": _without("penalty", "images, scene"),
}
"""What keeps a class from its role, by the key that it stands under in a sweep file."""
