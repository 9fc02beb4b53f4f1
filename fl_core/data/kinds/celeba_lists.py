"""CelebA's two lists, as CSV files or as the text files of the original download.

A text file separates values by spaces. The attributes come behind a line with the number of images and a line with the
attributes' names; the partition has neither.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fl_core.base.errors import InputError, natural

ID_COLUMN = "image_id"
PARTITION_COLUMN = "partition"

LABELS: Mapping[str, int] = {"-1": 0, "1": 1}
PARTITIONS: Mapping[str, int] = {"0": 0, "1": 1, "2": 2}


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong with a data folder, as one line.

    `kind` is the same for all that are alike and says what they are; `value` marks wrong values in cells, which come
    by the thousand.
    """

    kind: str
    text: str
    value: bool = False


Report = Callable[[Problem], None]
"""Told about each problem: raises at the first one (opening) or collects them (checking)."""


class ListFile:
    """A list with its header read; iterating gives (line number, fields) of each row that is not empty.

    Raises `InputError` where the file cannot be read or is not one of CelebA's lists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._text = path.suffix == ".txt"
        self._expected: int | None = None
        self._line = 0
        try:
            self._file = path.open(newline=None if self._text else "", encoding="utf-8-sig")
        except OSError as error:
            raise InputError(
                f"{path}: cannot be opened ({error.strerror}); put CelebA's {path.name} there."
            ) from error
        self._rows = _spaced(self._file) if self._text else _commas(self._file)
        try:
            self.header = self._text_header() if self._text else self._csv_header()
        except InputError:
            self._file.close()
            raise

    def __enter__(self) -> ListFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[tuple[int, list[str]]]:
        found = 0
        while (row := self._next()) is not None:
            found += 1
            yield row
        if self._expected is not None and found != self._expected:
            raise InputError(
                f"{self.path}: line 1 says {self._expected} images, but {found} rows follow; "
                f"restore CelebA's own {self.path.name}."
            )

    def canonical(self) -> bytes:
        """The list as the CSV file would have it that holds the same, with `\\n` at the end of each line."""
        if not self._text:
            return self.path.read_bytes().replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = [",".join(fields) for fields in (self.header, *(row for _, row in self))]
        return "".join(f"{line}\n" for line in lines).encode()

    def _next(self) -> tuple[int, list[str]] | None:
        try:
            row = next(self._rows, None)
        except (csv.Error, UnicodeDecodeError, OSError) as error:
            kind = "text" if self._text else "CSV text"
            raise InputError(
                f"{self.path}: not {kind} near line {self._line + 1} ({error}); restore CelebA's {self.path.name}."
            ) from error
        self._line = self._line if row is None else row[0]
        return row

    def _csv_header(self) -> list[str]:
        _, fields = self._next() or (1, [])
        header = [column.strip() for column in fields]
        if ID_COLUMN not in header:
            raise InputError(
                f"{self.path}: no column {ID_COLUMN!r} in line 1; restore CelebA's own {self.path.name}."
            )
        return header

    def _text_header(self) -> list[str]:
        if "partition" in self.path.name:
            return [ID_COLUMN, PARTITION_COLUMN]
        _, count = self._next() or (1, [])
        _, names = self._next() or (2, [])
        self._expected = natural(count[0]) if len(count) == 1 else None
        if self._expected is None or not names:
            raise InputError(
                f"{self.path}: line 1 must be the number of images and line 2 the attributes' names; "
                f"restore CelebA's own {self.path.name}."
            )
        return [ID_COLUMN, *names]


def read_column(
    path: Path, column: str, meaning: Mapping[str, int], others: Sequence[str], report: Report
) -> dict[str, int]:
    """File name -> `meaning` of `column`, in row order, the values of the columns `others` judged too.

    Rows with a problem are told to `report` and, if it returns, skipped.
    """
    allowed = " or ".join(meaning)
    hints = {"0": " (-1 means no)"} if meaning is LABELS else {}
    table: dict[str, int] = {}
    with ListFile(path) as rows:
        if column not in rows.header:
            raise InputError(f"{path}: no column {column!r}; restore CelebA's own {path.name}.")
        at_name, at_value, width = rows.header.index(ID_COLUMN), rows.header.index(column), len(rows.header)
        at_others = [rows.header.index(other) for other in others]
        for line, row in rows:
            where = f"{path}, line {line}"
            if len(row) != width:
                told = f"{len(row)} fields instead of {width}"
                report(Problem(kind=f"{path}: {told}", text=f"{where}: {told}; mend or delete this row."))
                continue
            name = row[at_name].strip()
            if name in table:
                told = f"{where}: a second row for {name!r}; delete one of the two."
                report(Problem(kind=f"{path}: second rows", text=told))
                continue
            value = meaning.get(row[at_value].strip())
            bad = [i for i in at_others if row[i].strip() not in meaning]
            for i in sorted([at_value, *bad] if value is None else bad):
                wrong = row[i].strip()
                told = (
                    f"{rows.header[i]} of {name!r} is {wrong!r}; it must be {allowed}{hints.get(wrong, '')}."
                )
                report(Problem(kind=f"{path}: values {wrong!r}", text=f"{where}: {told}", value=True))
            # A row with a bad value is still a row for its image: keep it, or each would be told twice.
            table[name] = -1 if value is None else value
    if not table:
        report(Problem(kind=f"{path}: no rows", text=f"{path}: no rows; restore CelebA's own {path.name}."))
    return table


def _commas(lines: Iterator[str]) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(lines)
    return ((reader.line_num, row) for row in reader if row)


def _spaced(lines: Iterator[str]) -> Iterator[tuple[int, list[str]]]:
    return ((number, row) for number, line in enumerate(lines, start=1) if (row := line.split()))
