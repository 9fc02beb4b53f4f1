"""Classification sets of `torchvision.datasets` that lie under a folder, or are fetched when that is asked for."""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from PIL import Image

from fl_core.base.errors import InputError, first_line, unknown_name
from fl_core.base.shape import ImageShape
from fl_core.data.dataset import ImageDataset, SplitName
from fl_core.data.kinds.assemble import assemble
from fl_core.data.resize import Resize
from fl_core.data.splits import SeededSplit

_LABELS = ("targets", "labels", "_labels", "y")
_UNCHECKED_PICKLES = ("LSUN", "LSUNClass")
"""Sets whose index torchvision unpickles from the folder without a checksum. CIFAR's pickles are compared with one."""
_SPLIT_NAMES: dict[SplitName, tuple[str, ...]] = {
    "train": ("train",),
    "valid": ("val", "valid"),
    "test": ("test",),
}


@dataclass(frozen=True, kw_only=True)
class TorchvisionPictures:
    """Pictures of torchvision's sets, opened again in each process that reads one."""

    name: str
    root: Path
    rows: tuple[tuple[tuple[tuple[str, object], ...], int], ...]
    """For each picture the arguments that open its part of the set, and its row there."""

    @property
    def place(self) -> Path:
        """See `PictureSource`."""
        return self.root

    def content(self, index: int) -> bytes:
        """See `PictureSource`: the decoded pixels, since sets store pictures in many ways."""
        picture = self.picture(index)
        return repr((picture.mode, picture.size)).encode() + picture.tobytes()

    def picture(self, index: int) -> Image.Image:
        """See `PictureSource`."""
        arguments, row = self.rows[index]
        picture = _part(self.name, self.root, arguments)[row][0]
        if not isinstance(picture, Image.Image):
            raise ValueError(f"torchvision gives a {type(picture).__name__}, not a picture")
        return picture

    def where(self, index: int) -> str:
        """See `PictureSource`."""
        arguments, row = self.rows[index]
        return f"{self.name} under {self.root}, {dict(arguments)}, row {row}"


def _datasets() -> ModuleType:
    import torchvision.datasets  # seconds of imports, which other kinds of data do not need

    return torchvision.datasets  # type: ignore[no-any-return]  # torchvision is untyped


def known_sets() -> tuple[str, ...]:
    """The names of torchvision's sets whose constructor needs a folder and at most the part of the set."""
    found = []
    sets = _datasets()
    for name in sets.__all__:
        made = getattr(sets, name)
        if inspect.isclass(made) and "root" in _needs(made) and name not in _UNCHECKED_PICKLES:
            given = {key for arguments, _ in _arguments(name) for key, _ in arguments}
            if {"root", *given}.issuperset(_needs(made)):
                found.append(name)
    return tuple(sorted([*found, "FakeData"]))


def _needs(made: type) -> list[str]:
    """The arguments that a constructor cannot do without."""
    parameters = inspect.signature(made).parameters.values()
    plain = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return [p.name for p in plain if p.default is p.empty]


def _can_fetch(made: type) -> bool:
    """Whether a constructor takes `download`, itself or as one of the keywords that it hands on to its base."""
    for kind in made.__mro__:
        if "__init__" not in vars(kind):
            continue
        parameters = inspect.signature(kind).parameters
        if "download" in parameters:
            return True
        if not any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
            return False
    return False


def open_torchvision(
    root: Path,
    *,
    name: str,
    shape: ImageShape,
    resize: Resize = "crop",
    split: SeededSplit | None = None,
    download: bool = False,
) -> ImageDataset:
    """Open the set `name` under `root`; it is fetched only where `download` says so.

    The set's own splits are used; what is missing of train, valid and test is taken of train by `split`.

    Raises:
        InputError: no such set, one that is not there, one without class labels, or one that torchvision refuses.
    """
    if name not in known_sets():
        raise unknown_name("set of torchvision", name, known_sets())
    rows: list[tuple[tuple[tuple[str, object], ...], int]] = []
    labels: list[int] = []
    given: list[SplitName | None] = []
    names: list[str] = []
    classes: list[str] = []
    parts = _arguments(name)
    for arguments, part in parts:
        opened = _open(name, root, arguments, download=download)
        mine = _labels(name, opened)
        rows += [(arguments, row) for row in range(len(mine))]
        labels += mine
        given += [part if len(parts) > 1 else None] * len(mine)
        names += [f"{part}/{row:06d}" for row in range(len(mine))]
        classes = classes or list(map(str, getattr(opened, "classes", None) or ()))
    return assemble(
        f"torchvision {name}",
        root,
        TorchvisionPictures(name=name, root=root, rows=tuple(rows)),
        shape=shape,
        resize=resize,
        split=split,
        names=names,
        labels=labels,
        classes=classes,
        given=given,
        given_by=f"torchvision's splits of {name}",
    )


def _arguments(name: str) -> list[tuple[tuple[tuple[str, object], ...], SplitName]]:
    """The arguments that open each part of a set, and the split that it is."""
    parameters = inspect.signature(getattr(_datasets(), name)).parameters
    if name == "EMNIST":
        return [
            ((("split", "balanced"), ("train", True)), "train"),
            ((("split", "balanced"), ("train", False)), "test"),
        ]
    if "train" in parameters:
        return [((("train", True),), "train"), ((("train", False),), "test")]
    if "split" in parameters:
        hints = str(parameters["split"].annotation) + (getattr(_datasets(), name).__doc__ or "")
        found: list[tuple[tuple[tuple[str, object], ...], SplitName]] = []
        for part, words in _SPLIT_NAMES.items():
            for word in words:
                if f'"{word}"' in hints or f"'{word}'" in hints or f"``{word}``" in hints:
                    found.append(((("split", word),), part))
                    break
        if found:
            return found
    return [((), "train")]


def _open(name: str, root: Path, arguments: tuple[tuple[str, object], ...], *, download: bool = False) -> Any:
    made = getattr(_datasets(), name)
    parameters = inspect.signature(made).parameters
    settings: dict[str, Any] = dict(arguments)
    if "root" in parameters:
        settings["root"] = root
    if _can_fetch(made):
        settings["download"] = download
    elif download:
        raise InputError(
            f"torchvision cannot fetch {name}; put it under {root} by hand, without data.download."
        )
    try:
        return made(**settings)
    except ImportError as error:
        raise InputError(
            f"torchvision cannot read {name}: {first_line(error)}; install what it needs."
        ) from error
    except (RuntimeError, OSError, ValueError) as error:
        can_fetch = _can_fetch(made) and not download
        remedy = "; set data.download: true to have torchvision fetch it" if can_fetch else ""
        raise InputError(f"{root}: torchvision finds no {name} ({first_line(error)}){remedy}.") from error


@functools.lru_cache(maxsize=8)
def _part(name: str, root: Path, arguments: tuple[tuple[str, object], ...]) -> Any:
    """A part of a set as this process has it open."""
    return _open(name, root, arguments)


def _labels(name: str, opened: Any) -> list[int]:
    """The labels of a part of a set, from what it lists.

    FakeData and others without a list of one label a picture are asked row by row.
    """
    listed = next((getattr(opened, key) for key in _LABELS if hasattr(opened, key)), None)
    if listed is None or getattr(listed, "ndim", 1) > 1:
        listed = [opened[row][1] for row in range(len(opened))]
    labels = []
    for label in listed:
        value = label.item() if hasattr(label, "item") else label
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise InputError(
                f"{name} is not for classification: a label is {value!r}, not an integer from 0."
            )
        labels.append(value)
    return labels
