"""What a shared cache holds and what of it goes, while others read and write it."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from fl_core.base.errors import InputError
from orchestrator.io.cache import Cache
from orchestrator.io.cache_upkeep import Entry, entries, outdated, remove
from tests.support.command import gradsweep, refused

DAY = 86400.0


def key(number: int) -> str:
    return f"{number:020x}"


def filled(folder: Path, count: int = 4) -> Cache:
    """A cache with entries of 100 bytes, entry n unused for n days."""
    cache = Cache(folder, lambda _: None)
    for number in range(count):
        cache.write("trials", key(number), {"a": b"x" * 60, "b": b"y" * 40})
    now = time.time()
    for entry in entries(folder):
        age = int(entry.path.name, 16) * DAY
        os.utime(entry.path, (now - age, now - age))
    return cache


def whole(files: object) -> object:
    return files


def test_entries_are_listed_by_their_last_use(tmp_path: Path) -> None:
    filled(tmp_path)
    found = entries(tmp_path)
    assert [entry.path.name for entry in found] == [key(n) for n in range(4)]
    assert {(entry.kind, entry.size) for entry in found} == {("trials", 100)}
    assert [round(entry.unused / DAY) for entry in found] == [0, 1, 2, 3]


def test_a_use_makes_an_entry_young(tmp_path: Path) -> None:
    cache = filled(tmp_path)
    assert cache.read("trials", key(3), whole) is not None
    assert entries(tmp_path)[0].path.name in (key(0), key(3))
    assert max(entry.unused for entry in entries(tmp_path)) < 2.5 * DAY


def test_old_ones_go_and_then_the_longest_unused(tmp_path: Path) -> None:
    filled(tmp_path)
    found = entries(tmp_path)

    def gone(keep: int | None = None, older_than: float | None = None) -> list[int]:
        return [int(one.path.name, 16) for one in outdated(found, keep=keep, older_than=older_than)]

    assert gone() == []
    assert gone(older_than=1.5 * DAY) == [2, 3]
    assert gone(keep=250) == [2, 3]
    assert gone(keep=300) == [3]
    assert gone(keep=0) == [0, 1, 2, 3]
    assert gone(keep=350, older_than=2.5 * DAY) == [3]


def test_removed_entries_are_misses_and_can_come_back(tmp_path: Path) -> None:
    cache = filled(tmp_path)
    assert remove(outdated(entries(tmp_path), keep=200, older_than=None)) == 200
    assert [entry.path.name for entry in entries(tmp_path)] == [key(0), key(1)]
    assert cache.read("trials", key(3), whole) is None
    cache.write("trials", key(3), {"a": b"again"})
    assert cache.read("trials", key(3), whole) == {"a": b"again"}
    remove(entries(tmp_path))
    assert not list(tmp_path.iterdir()), "empty folders go too"
    cache.write("trials", key(5), {"a": b"a"})
    assert cache.read("trials", key(5), whole) == {"a": b"a"}


def test_half_written_entries_go_after_a_day(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    scratch = entries(tmp_path)[0].path.with_name(f"_{key(9)}-0123abcd")
    scratch.mkdir()
    (scratch / "a").write_bytes(b"half")
    assert not outdated(entries(tmp_path), keep=None, older_than=None), "somebody may be writing it"
    os.utime(scratch, (time.time() - 2 * DAY,) * 2)
    assert [one.path for one in outdated(entries(tmp_path), keep=None, older_than=None)] == [scratch]
    remove(outdated(entries(tmp_path), keep=None, older_than=None))
    assert not scratch.exists()


def test_what_is_no_entry_is_left_alone(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    place = entries(tmp_path)[0].path.parent
    (tmp_path / "notes" / "trials" / key(1)).mkdir(parents=True)
    (place / "mine").mkdir()
    (place / key(7)).symlink_to(tmp_path / "notes", target_is_directory=True)
    assert len(entries(tmp_path)) == 1
    remove(entries(tmp_path))
    assert (place / "mine").is_dir()
    assert (tmp_path / "notes" / "trials" / key(1)).is_dir()


def test_readers_find_all_of_an_entry_or_nothing_while_it_is_removed(tmp_path: Path) -> None:
    cache = filled(tmp_path, 1)
    stop, wrong = threading.Event(), []

    def look() -> None:
        while not stop.is_set():
            found = cache.read("trials", key(0), lambda files: (files["a"], files["b"]))
            if found is not None and found != (b"x" * 60, b"y" * 40):
                wrong.append(found)

    reader = threading.Thread(target=look)
    reader.start()
    for _ in range(200):
        remove(entries(tmp_path))
        cache.write("trials", key(0), {"a": b"x" * 60, "b": b"y" * 40})
    stop.set()
    reader.join()
    assert not wrong


def test_the_command_lists_and_removes(tmp_path: Path) -> None:
    filled(tmp_path)
    listed = gradsweep("cache", tmp_path)
    assert listed.returncode == 0
    assert "4 entries" in listed.stdout
    assert "trials" in listed.stdout
    removed = gradsweep("cache", tmp_path, "--keep", "0.2KB", "--older-than", "12h")
    assert "3 of 4 entries removed" in removed.stdout
    assert len(entries(tmp_path)) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--keep", "much"], "--keep 'much': must be a size such as 500MB or 20GB"),
        (["--older-than", "30"], "--older-than '30': must be a time such as 12h, 30d or 8w"),
    ],
)
def test_bad_bounds_are_refused(tmp_path: Path, arguments: list[str], said: str) -> None:
    refused(gradsweep("cache", tmp_path, *arguments), said)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    refused(gradsweep("cache", tmp_path / "none"), "is not there; give the folder that sweeps had as --cache")
    with pytest.raises(InputError, match="is no folder"):
        (tmp_path / "file").touch()
        entries(tmp_path / "file")


def test_retrying_all_takes_nothing_from_a_cache(tmp_path: Path) -> None:
    refused(gradsweep("retry", tmp_path, "--all", "--cache", tmp_path), "--cache does not go with --all")


def test_an_entry_somebody_else_removed_counts_for_nobody(tmp_path: Path) -> None:
    gone = Entry(tmp_path / "c" / "trials" / key(1), "c", "trials", 100, 0.0)
    assert remove([gone]) == 0
