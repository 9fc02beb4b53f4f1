"""A data set from what its files say: the one place where stored splits, seeded ones and orders come together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fl_core.base.errors import InputError
from fl_core.base.shape import ImageShape
from fl_core.data.dataset import ImageDataset, PictureSource, SplitName, fingerprint_of
from fl_core.data.drawn_splits import completed, partition_by, ranks
from fl_core.data.resize import Resize
from fl_core.data.splits import SeededSplit

MOST_CLASSES = 1_000_000
"""More than any classification set has; a label beyond it is an identifier of another kind."""


def assemble(
    kind: str,
    root: Path,
    source: PictureSource,
    *,
    shape: ImageShape,
    resize: Resize,
    split: SeededSplit | None,
    names: Sequence[str],
    labels: Sequence[int],
    classes: Sequence[str] | None,
    given: Sequence[SplitName | None],
    given_by: str,
    content: Iterable[str] | npt.NDArray[np.generic] = (),
) -> ImageDataset:
    """The data set of a `kind` under `root`.

    Args:
        kind: what the fingerprint begins with.
        root: the folder or file that was opened.
        source: where the pictures come from.
        shape: the size that every picture is given.
        resize: how it comes to that size.
        split: what cuts a set that has no splits, or lacks one; None for the default.
        names: what identifies each picture.
        labels: a number from 0 for each picture.
        classes: their names; numbers stand in their place where there are none, or too few.
        given: the split that each picture lies in; used where no picture lacks it.
        given_by: what gives these splits, for messages.
        content: what else the fingerprint covers.

    Raises:
        InputError: a label of `MOST_CLASSES` or more, since every number below a label is a class.
    """
    if max(labels) >= MOST_CLASSES:
        raise InputError(
            f"{root}: a label is {max(labels)}; they number the classes from 0, to {MOST_CLASSES - 1} at most."
        )
    split = split or SeededSplit()
    named = [part for part in given if part is not None]
    if len(named) == len(names):
        partition, added = completed(named, names, split)
        rule = f"{given_by}; {added}" if added else given_by
    else:
        partition, rule = partition_by(split, names), str(split)
    import torch

    numbers = np.array(labels, dtype=np.int64)
    needed = max(2, int(numbers.max()) + 1)
    held = tuple(classes) if classes and len(classes) >= needed else tuple(map(str, range(needed)))
    settings = f"{kind} {split.seed} {shape} {resize}"
    return ImageDataset(
        root=root,
        source=source,
        shape=shape,
        resize=resize,
        classes=held,
        names=np.array(names),
        labels=torch.from_numpy(numbers),
        partition=partition,
        ranks=ranks(split, names),
        split_by=f"{root} ({rule})",
        fingerprint=fingerprint_of(settings, held, names, numbers, partition, content),
    )
