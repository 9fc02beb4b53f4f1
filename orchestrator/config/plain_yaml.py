"""YAML text to plain data: what JSON can hold, every part its own, every mistake one line with its place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from fl_core.base.errors import InputError, first_line

MOST_CHARACTERS = 500_000
"""A longer text is no sweep file; reading one takes a minute."""
MOST_VALUES = 100_000
"""So many values may a text stand for, those that an alias repeats counted each time."""
DEEPEST = 40
"""How deep mappings and lists may lie in each other."""

_LONGEST_NUMBER = 100

_TAG = "tag:yaml.org,2002:"
_MERGE = f"{_TAG}merge"
_AS_WRITTEN = frozenset({f"{_TAG}str", f"{_TAG}timestamp"})
"""Scalars that stay the text that they are: no setting is a date."""
_SCALARS = frozenset(f"{_TAG}{name}" for name in ("null", "bool", "int", "float"))

Place = tuple[str | int, ...]


def read_yaml(text: str, *, where: str) -> Any:
    """The YAML 1.2 document in `text` as dicts, lists, strings, numbers, booleans and None.

    Aliases and merge keys (`<<`) become copies, so that no two places share anything. Dates stay text. Raises
    `InputError` with the place for what is no YAML, for what JSON does not have (sets, binary data, objects), for a key
    that comes twice, and for texts that are too long, too deep or stand for too much.
    """
    if len(text) > MOST_CHARACTERS:
        raise InputError(
            f"{where}: has {len(text):,} characters; must be at most {MOST_CHARACTERS:,}, a sweep file is short."
        )
    yaml = YAML(typ="safe", pure=True)
    yaml.Composer = _ShallowComposer
    try:
        root = yaml.compose(text)
    except MarkedYAMLError as error:
        raise InputError(f"{_place(where, error.problem_mark)}: not valid YAML: {error.problem}.") from error
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    except (
        Exception
    ) as error:  # The library lets through what goes wrong inside it, such as `\UFFFFFFFF` in quotes.
        raise InputError(f"{where}: not valid YAML: {first_line(error)}.") from error
    return None if root is None else _Reader(yaml, where).value(root, ())


class _ShallowComposer(Composer):
    """Ends where the text is nested too deep, before the time that this takes, or the stack, runs out.

    An anchor may be used again, as YAML has it: an alias means the last one, without a word of the library's.
    """

    def __init__(self, loader: Any = None) -> None:
        super().__init__(loader)
        self.warn_double_anchors = False
        self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self._depth += 1
        if self._depth > 2 * DEEPEST:
            raise InputError(f"nested deeper than {DEEPEST} levels.")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


class _Reader:
    """Turns the nodes of one document into plain data."""

    def __init__(self, yaml: YAML, where: str) -> None:
        self._yaml, self._where = yaml, where
        self._values = 0

    def value(self, node: Node, path: Place) -> Any:
        """What `node` says; `path` leads to it."""
        self._enter(node, path)
        match node:
            case MappingNode(tag=tag) if tag == f"{_TAG}map":
                return self._mapping(node, path)
            case SequenceNode(tag=tag) if tag == f"{_TAG}seq":
                return [self.value(item, (*path, i)) for i, item in enumerate(node.value)]
            case ScalarNode(tag=tag) if tag in _AS_WRITTEN:
                return self._text(node, path)
            case ScalarNode(tag=tag) if tag in _SCALARS:
                return self._scalar(node, path)
        raise self._error(node, path, f"the tag {node.tag!r} has no meaning here")

    def _enter(self, node: Node, path: Place) -> None:
        self._values += 1
        if self._values > MOST_VALUES:
            raise self._error(
                node, path[:4], f"stands for more than {MOST_VALUES:,} values, with what aliases repeat"
            )
        if len(path) > DEEPEST:
            raise self._error(node, path[:4], f"nested deeper than {DEEPEST} levels")

    def _mapping(self, node: MappingNode, path: Place) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        own: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                for source in self._sources(value_node, (*path, "<<")):
                    merged = self._mapping(source, (*path, "<<")) | merged
                continue
            if not isinstance(key_node, ScalarNode):
                raise self._error(key_node, path, "a key must be a word, not a list or a mapping")
            key = self._text(key_node, path)
            if key in own:
                raise self._error(key_node, path, f"the key {key!r} comes twice")
            own[key] = self.value(value_node, (*path, key))
        return merged | own

    def _sources(self, node: Node, path: Place) -> Iterator[MappingNode]:
        """The mappings that a merge key takes in: one, or a list of them, of which the first wins."""
        for source in node.value if isinstance(node, SequenceNode) else [node]:
            if not isinstance(source, MappingNode):
                raise self._error(source, path, "must be a mapping, or a list of them")
            self._enter(source, path)
            yield source

    def _scalar(self, node: ScalarNode, path: Place) -> object:
        if len(node.value) > _LONGEST_NUMBER:
            raise self._error(node, path, f"{node.value[:40]!r}... has too many digits")
        try:
            return self._yaml.constructor.construct_object(node)
        except Exception as error:  # ValueError, KeyError, and whatever else a number that is none leads to.
            raise self._error(
                node, path, f"{node.value!r} is no {str(node.tag).removeprefix(_TAG)}"
            ) from error

    def _text(self, node: ScalarNode, path: Place) -> str:
        text = str(node.value)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise self._error(node, path, f"{text[:80]!r} holds half of a character pair") from error
        return text

    def _error(self, node: Node, path: Place, what: str) -> InputError:
        names = ".".join(map(str, path))
        return InputError(f"{_place(self._where, node.start_mark)}: {names + ': ' if names else ''}{what}.")


def _place(where: str, mark: Any) -> str:
    return where if mark is None else f"{where}, line {mark.line + 1}, column {mark.column + 1}"


def read_sweep_text(path: Path) -> dict[str, Any]:
    """The mapping in a sweep file; raises `InputError` for a file that cannot be read and for other YAML."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"Cannot read the sweep file {path}: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"Cannot read the sweep file {path}: {error}.") from error
    tree = read_yaml(text, where=str(path))
    if not isinstance(tree, dict):
        held = "empty" if tree is None else "a list" if isinstance(tree, list) else "a single value"
        raise InputError(
            f"{path}: a sweep file is a mapping of settings such as `name: first`; this one is {held}."
        )
    return tree


def read_override(text: str) -> tuple[str, Any]:
    """Key and value of `key=value`, the value being YAML; raises `InputError` for other texts."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise InputError(f"--set {text!r}: must be key=value, such as study.suggestions=8.")
    return key, read_yaml(value, where=f"--set {key}")
