"""A user's own code: found, read, run once, and blamed with its line where it fails."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from fl_core.base.errors import InputError
from fl_core.base.own_code import MOST_BYTES, OwnCode

_SOURCE = """
from __future__ import annotations
from dataclasses import dataclass

@dataclass(frozen=True)
class Half:
    share: float = 0.5

def make(size: int = 3) -> list[int]:
    return [0] * size

def fail() -> None:
    raise RuntimeError("on purpose")

number = 7
"""


def _file(folder: Path, text: str = _SOURCE, name: str = "mine.py") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_function_and_a_class_of_a_file_are_found(tmp_path: Path) -> None:
    _file(tmp_path)
    make = OwnCode.read("mine.py:make", tmp_path, where="model.factory")
    assert make.place == "mine.py:make"
    assert make.callable("a function")(2) == [0, 0]
    half = OwnCode.read("mine.py:Half", tmp_path, where="x").load()
    assert half().share == 0.5
    assert half is OwnCode.read("mine.py:Half", tmp_path, where="x").load(), "the file is run once"


def test_the_text_travels_and_the_file_may_be_gone(tmp_path: Path) -> None:
    path = _file(tmp_path)
    code = OwnCode.read(f"{path}:make", Path(), where="x")
    path.unlink()
    there = pickle.loads(pickle.dumps(code))
    assert there == code
    assert there.callable("a function")(1) == [0]


def test_the_folder_is_no_part_of_the_setting(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one = _file(tmp_path / "a")
    other = _file(tmp_path / "b")
    assert OwnCode.read(f"{one}:make", Path(), where="x") == OwnCode.read(f"{other}:make", Path(), where="x")


def test_a_function_of_an_installed_module_is_found() -> None:
    code = OwnCode.read("collections:Counter", Path(), where="x")
    assert code.source is None
    assert code.callable("a class")("aab")["a"] == 2


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mine.py", "must be FILE.py:NAME or package.module:NAME"),
        ("mine.py:", "must be FILE.py:NAME"),
        ("mine.py:make()", "must be FILE.py:NAME"),
        ("a/b:make", "'a/b' is neither a file FILE.py nor a module's name"),
        ("mina.py:make", "mina.py does not exist. Did you mean 'mine.py'"),
        ("broken.py:make", "broken.py, line 2: not valid Python"),
        ("binary.py:make", "binary.py is no text in UTF-8"),
        ("long.py:make", "has more than"),
        ("folder.py:make", "cannot read .*folder.py"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path: Path, spec: str, message: str) -> None:
    _file(tmp_path)
    _file(tmp_path, "x = 1\ndef make(:\n", "broken.py")
    (tmp_path / "binary.py").write_bytes(b"\xff\xfe\x00x")
    (tmp_path / "long.py").write_bytes(b"#" * (MOST_BYTES + 1))
    (tmp_path / "folder.py").mkdir()
    with pytest.raises(InputError, match=message) as refused:
        OwnCode.read(spec, tmp_path, where="model.factory")
    assert "model.factory" in str(refused.value)


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        (_SOURCE, "mak", "Unknown name in mine.py 'mak'. Did you mean 'make'"),
        (_SOURCE, "number", "mine.py:number is int: must be a function"),
        (
            "import not_there_at_all\n",
            "make",
            r"ModuleNotFoundError.*mine.py, line 1.*must hold all that it needs",
        ),
        ("\n\n1 / 0\n", "make", r"failed on import: ZeroDivisionError: division by zero \(mine.py, line 3\)"),
    ],
)
def test_what_cannot_be_run_is_refused(tmp_path: Path, text: str, name: str, message: str) -> None:
    _file(tmp_path, text)
    code = OwnCode.read(f"mine.py:{name}", tmp_path, where="x")
    with pytest.raises(InputError, match=message):
        code.callable("a function")


def test_a_module_that_is_not_installed_is_refused() -> None:
    with pytest.raises(InputError, match=r"Module 'no_such_package.nets' is not installed"):
        OwnCode.read("no_such_package.nets:make", Path(), where="x").load()


def test_a_failure_names_the_code_and_its_line(tmp_path: Path) -> None:
    _file(tmp_path)
    code = OwnCode.read("mine.py:fail", tmp_path, where="x")
    message = r"mine.py:fail failed when called: RuntimeError: on purpose \(mine.py, line 13\)"
    with pytest.raises(InputError, match=message), code.blamed("when called"):
        code.load()()
