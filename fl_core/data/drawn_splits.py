"""Splits of data sets that come without one, or without a validation part: by a rule that names pictures alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fl_core.data.dataset import SPLITS, SplitName
from fl_core.data.splits import SeededSplit


def partition_by(split: SeededSplit, names: Sequence[str]) -> npt.NDArray[np.int8]:
    """0 / 1 / 2 for train / valid / test, int8 (n,), for pictures of these names."""
    ends = (round(len(names) * split.train), round(len(names) * (split.train + split.valid)))
    found = np.full(len(names), SPLITS["test"], dtype=np.int8)
    order = _order(split.seed, names)
    found[order[: ends[0]]] = SPLITS["train"]
    found[order[ends[0] : ends[1]]] = SPLITS["valid"]
    return found


def completed(
    given: Sequence[SplitName], names: Sequence[str], split: SeededSplit
) -> tuple[npt.NDArray[np.int8], str]:
    """Splits that a data set has itself as int8 (n,), and what was added to them, in words (empty: nothing).

    Where `valid` has no picture, the share `split.valid` of `train` becomes it; where `test` has none, a part of the
    same size becomes that.
    """
    found = np.array([SPLITS[name] for name in given], dtype=np.int8)
    added = []
    for name in ("valid", "test"):
        train = np.flatnonzero(found == SPLITS["train"])
        if (found == SPLITS[name]).any() or len(train) < 2:
            continue
        share = max(1, round(len(train) * split.valid))
        order = _order(split.seed, [f"{name}/{names[i]}" for i in train.tolist()])
        found[train[order[:share]]] = SPLITS[name]
        added.append(f"{name} is {split.valid:.0%} of train by seed {split.seed}")
    return found, ", ".join(added)


def ranks(split: SeededSplit, names: Sequence[str]) -> npt.NDArray[np.int64]:
    """The place of each picture in a seeded order, int64 (n,), for data sets that are stored class by class."""
    found = np.empty(len(names), dtype=np.int64)
    found[_order(split.seed, [f"order/{name}" for name in names])] = np.arange(len(names))
    return found


def _order(seed: int, names: Sequence[str]) -> npt.NDArray[np.int64]:
    keys = [hashlib.sha256(f"{seed}\n{name}".encode()).digest() for name in names]
    return np.array(sorted(range(len(names)), key=keys.__getitem__), dtype=np.int64)
