"""Which pictures a sweep rests on: noted in `sweep.json`, and checked before the sweep goes on or is merged.

A data folder may move, and its lists may be written anew; what counts are the pictures that the cells use, their
labels and their order. Rows name the data set's fingerprint, so trials of two data sets in one folder are found too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fl_core.base.errors import InputError
from fl_core.data.dataset import SPLITS, ImageDataset, Picture, SplitName
from fl_core.data.splits import SeededSplit
from orchestrator.capture.datasets import own_settings
from orchestrator.config.plain import build, to_plain
from orchestrator.config.sweep import DataConfig, SweepConfig
from orchestrator.io.files import RESTORE, Damaged
from orchestrator.io.identity import content_hash
from orchestrator.results.folder import CLAIM, Claim, read_claim

_TOLD = 3
"""At most so many pictures are named in a message."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The settings that decide which pictures a cell uses; `root` only where it is the cell's own."""

    kind: str
    root: str | None
    attribute: str | tuple[str, ...]
    synthetic_images: int
    synthetic_seed: int
    image_size: int | tuple[int, int]
    train: int | None
    valid: int | None
    public: int | None
    channels: int | None = None
    name: str | None = None
    resize: str | None = None
    split: SeededSplit | None = None

    @classmethod
    def of(cls, config: Mapping[str, Any], cell: Mapping[str, Any]) -> Selection:
        """That of a cell; both as `sweep.json` has them."""
        own = own_settings(config, cell)
        data: DataConfig = build(DataConfig, own["data"], where=f"cells.{cell['name']}: data")
        size = own["model"]["image_size"]
        shared = [each["selective"]["images"] for each in cell["defense"] if each.get("selective")]
        return cls(
            kind=data.kind,
            root=None if data.root == config["data"]["root"] else data.root,
            attribute=data.attribute,
            synthetic_images=data.synthetic_images,
            synthetic_seed=data.synthetic_seed,
            image_size=size if isinstance(size, int) else (size[0], size[1]),
            channels=own["model"].get("channels"),
            name=data.name,
            resize=data.resize,
            split=data.split,
            train=_largest(data.train, *([own["utility"]["train"]] if own["utility"] else [])),
            valid=data.valid,
            public=_largest(data.public, *shared),
        )

    @property
    def source(self) -> Selection:
        """The same without how many pictures are used: which data set it is."""
        return dataclasses.replace(self, train=None, valid=None, public=None)

    def limit(self, split: SplitName) -> int | None:
        """How many pictures of a split are used, from its first one on; None for all."""
        return {"train": self.train, "valid": self.valid, "test": self.public}[split]


@dataclass(frozen=True, kw_only=True)
class Used:
    """The pictures that a selection came to: `NAME LABEL DIGEST` for each, by split, in order.

    `fingerprint` is the data set's, under which captures are kept.
    """

    selection: Selection
    fingerprint: str
    pictures: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def difference(self, now: Used) -> str | None:
        """What is not the same in the pictures of `now`, where anything is.

        Of selections of other sizes the shorter one is compared: both begin with the split's first picture.
        """
        whole = self.selection == now.selection
        for split in SPLITS:
            before, after = (each.pictures.get(split, ()) for each in (self, now))
            size = max(len(before), len(after)) if whole else min(len(before), len(after))
            if before[:size] != after[:size]:
                return f"split {split}: {_changes(before[:size], after[:size])}"
        return None


class DataCheck:
    """Compares the data sets that a sweep opens with those that its results folder was made of."""

    def __init__(
        self,
        out: Path,
        config: SweepConfig,
        claim: Claim | None,
        rows: Mapping[str, set[str]],
        say: Callable[[str], None],
    ) -> None:
        """`claim` is what the folder notes of this sweep, where it does; `say` is told what a user should know.

        `rows` has the column `data` of the folder's trials by cell.
        """
        self._out, self._say, self._config = out, say, to_plain(config)
        self._old = _noted(out, claim)
        self._unnoted = claim is not None and not self._old
        _refuse_mixed(out, self._config, self._old, rows)
        self._rows = by_source(self._config, rows)
        self._found: dict[Selection, Used] = {}

    def admit(self, cell: str, dataset: ImageDataset) -> ImageDataset:
        """The data set, under the fingerprint that the folder has for it; raises `InputError` for other data."""
        plain = next(each for each in self._config["cells"] if each["name"] == cell)
        selection = Selection.of(self._config, plain)
        if selection not in self._found:
            self._found[selection] = self._compared(selection, dataset)
        fingerprint = self._found[selection].fingerprint
        if fingerprint == dataset.fingerprint:
            return dataset
        return dataclasses.replace(dataset, fingerprint=fingerprint)

    def pictures(self, cell: str, *, train: int | None) -> tuple[str, str]:
        """Hashes of names, labels, bytes and order of the pictures that an admitted cell uses.

        First those that attacks rest on: the first `train` training pictures and the public ones. Then all.
        """
        plain = next(each for each in self._config["cells"] if each["name"] == cell)
        used = self._found[Selection.of(self._config, plain)].pictures
        attacked = {"train": used["train"][:train], "test": used["test"]}
        return content_hash(attacked), content_hash(used)

    def note(self) -> list[Any]:
        """What `sweep.json` is to have: what it had, and what was found now."""
        found = {used.selection: used for used in self._old} | self._found
        return [to_plain(used) for used in found.values()]

    def _compared(self, selection: Selection, dataset: ImageDataset) -> Used:
        """The pictures that are there now, found to be those of the folder."""
        pictures: dict[str, list[Picture]] = {
            split: _pictures(dataset, split, selection.limit(split)) for split in SPLITS
        }
        lines = {
            split: tuple(f"{p.name} {p.label} {p.digest}" for p in found) for split, found in pictures.items()
        }
        now = Used(selection=selection, fingerprint=dataset.fingerprint, pictures=lines)
        turned = [picture.name for found in pictures.values() for picture in found if picture.turned]
        kin = [
            used for used in (*self._old, *self._found.values()) if used.selection.source == selection.source
        ]
        for used in kin:
            if changed := used.difference(now):
                raise InputError(
                    f"{self._out} holds a sweep on other pictures than {dataset.source.place} has: {changed}; "
                    "bring the old data back, or use another --out."
                )
        if kin:
            return dataclasses.replace(now, fingerprint=kin[0].fingerprint)
        if self._unnoted:
            now = dataclasses.replace(now, fingerprint=self._known(selection, dataset, turned))
            count = sum(map(len, lines.values()))
            self._say(
                f"{self._out / CLAIM} notes no pictures yet: the {count} that are used now are noted there"
            )
        elif turned:
            self._say(
                f"{len(turned)} pictures are turned as their EXIF orientation says, such as {turned[0]}"
            )
        return now

    def _known(self, selection: Selection, dataset: ImageDataset, turned: Sequence[str]) -> str:
        """What a folder without noted pictures calls `dataset`; `InputError` where its trials are of another one."""
        if turned:
            raise InputError(
                f"{self._out} was begun by a version that did not turn pictures as their EXIF orientation says, "
                f"{turned[0]} for one; use another --out."
            )
        rows = self._rows.get(selection.source, set())
        names = (dataset.fingerprint, *dataset.earlier_fingerprints)
        for fingerprint in names:
            if not rows or f"{selection.kind}:{fingerprint}" in rows:
                return fingerprint
        raise InputError(
            f"{self._out} holds trials of {_listed(rows)}, and {dataset.root} is {selection.kind}:{names[0]}: its "
            "lists or file names have changed; bring the old data back, or use another --out."
        )


def by_source(config: Mapping[str, Any], rows: Mapping[str, set[str]]) -> dict[Selection, set[str]]:
    """The column `data` by data set, from that by cell; `config` as `sweep.json` has it, without it nothing."""
    found: dict[Selection, set[str]] = {}
    for cell in config.get("cells", ()):
        if cell["name"] in rows:
            found.setdefault(Selection.of(config, cell).source, set()).update(rows[cell["name"]])
    return found


def refuse_mixed(folder: Path, rows: Mapping[str, set[str]]) -> None:
    """Raise `InputError` where a folder's trials are of several data sets, or of others than `sweep.json` notes.

    `rows` has the column `data` by cell.
    """
    claim = read_claim(folder)
    config = to_plain(claim.config) if claim else {}
    _refuse_mixed(folder, config, _noted(folder, claim), rows)


def united(folders: Mapping[Path, Mapping[str, set[str]]]) -> list[Any]:
    """What the `sweep.json` of several merged folders notes; raises `InputError` where their data differ.

    The folders come with the column `data` of their rows by cell.
    """
    notes: dict[Selection, tuple[Path, Used]] = {}
    names: dict[Selection, tuple[Path, str]] = {}
    for folder, rows in folders.items():
        refuse_mixed(folder, rows)
        claim = read_claim(folder)
        for used in _noted(folder, claim):
            for other, there in notes.values():
                alike = there.selection.source == used.selection.source
                if alike and (changed := there.difference(used)):
                    raise _other_data(folder, other, changed)
            notes.setdefault(used.selection, (folder, used))
        for source, found in by_source(to_plain(claim.config) if claim else {}, rows).items():
            name = _listed(found)
            other, before = names.setdefault(source, (folder, name))
            if before != name:
                raise _other_data(folder, other, f"{name} there and {before} here")
    return [to_plain(used) for _, used in notes.values()]


def _refuse_mixed(
    folder: Path, config: Mapping[str, Any], notes: Sequence[Used], rows: Mapping[str, set[str]]
) -> None:
    sources = by_source(config, rows)
    mixed = next((found for found in (*rows.values(), *sources.values()) if len(found) > 1), None)
    if mixed:
        raise InputError(
            f"{folder} holds trials of several data sets in cells that say they have the same: {_listed(mixed)}; run "
            "the sweep anew with another --out."
        )
    for source, found in sources.items():
        expected = {f"{source.kind}:{used.fingerprint}" for used in notes if used.selection.source == source}
        if expected and not found <= expected:
            raise InputError(
                f"{folder} holds trials of {_listed(found)}, but its {CLAIM} is of {_listed(expected)}: files of two "
                "results folders are mixed; restore it, or run the sweep anew with another --out."
            )


def _other_data(folder: Path, other: Path, changed: str) -> InputError:
    return InputError(
        f"{folder} holds trials of other data than {other}: {changed}; only folders of the same data can be merged."
    )


def _noted(folder: Path, claim: Claim | None) -> list[Used]:
    try:
        return build(list[Used], list(claim.data) if claim else [], where="data")
    except InputError as error:
        raise Damaged.of(folder / CLAIM, error, RESTORE) from error


def _pictures(dataset: ImageDataset, split: SplitName, limit: int | None) -> list[Picture]:
    """The first `limit` pictures of a split, which may have fewer or none: who needs them says so."""
    try:
        indices = dataset.split(split)[:limit]
    except InputError:
        return []
    return [dataset.picture(index) for index in indices]


def _changes(before: Sequence[str], after: Sequence[str]) -> str:
    """How two lists of pictures part: how many there are, and which are gone, new or changed."""
    old, new = (
        {name: (label, digest) for name, label, digest in map(_parts, lines)} for lines in (before, after)
    )
    kept = [name for name in old if name in new]
    changes = {
        "gone": [name for name in old if name not in new],
        "new": [name for name in new if name not in old],
        "another picture under its old name": [name for name in kept if old[name][1] != new[name][1]],
        "with another label": [name for name in kept if old[name][0] != new[name][0]],
    }
    told = [
        f"{_some(names)} {'are' if len(names) > 1 else 'is'} {what}"
        for what, names in changes.items()
        if names
    ]
    counts = f"{len(before)} pictures expected, {len(after)} found"
    return f"{counts}; {', '.join(told) or 'they are in another order'}"


def _parts(line: str) -> list[str]:
    return line.rsplit(" ", 2)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _TOLD} more" if len(names) > _TOLD else ""
    return ", ".join(names[:_TOLD]) + more


def _listed(names: Iterable[str]) -> str:
    return " and ".join(sorted(names))


def _largest(*counts: int | None) -> int | None:
    """The largest, where None stands for all."""
    found = [count for count in counts if count is not None]
    return max(found) if len(found) == len(counts) else None
