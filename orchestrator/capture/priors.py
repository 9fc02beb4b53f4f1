"""Trained priors: learned once from public pictures, kept under the hash of what they were learned from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from attack_core.priors.mixture_training import train_patches
from attack_core.priors.patch_mixture import PatchMixture
from attack_core.priors.training import PatchTraining
from fl_core.base.errors import InputError
from fl_core.base.rng import derive_seed, generator
from fl_core.base.shape import ImageShape
from fl_core.data.dataset import ImageDataset
from orchestrator.capture.files import load_prior, save_prior
from orchestrator.config.sweep import AttackerConfig, DataConfig, PriorConfig, SweepConfig
from orchestrator.io.files import Damaged
from orchestrator.io.identity import content_hash, tensor_hash

FORMAT = 1
"""Version of what a prior's key and file mean; a change makes old ones unused."""


@dataclass(frozen=True, kw_only=True)
class Learned:
    """A trained prior, its identity (hashes of what it was learned from and of what it came to), and a line on it."""

    identity: str
    prior: PatchMixture
    source: str

    @property
    def column(self) -> str:
        """What rows say of it."""
        return f"{self.source} {self.identity}"


class Priors:
    """The trained priors of one results folder, each trained when it is first asked for, in this process.

    `folder` is that of the captures. `opened` opens a data set by its settings and the shape of its pictures.
    """

    def __init__(
        self,
        folder: Path,
        *,
        opened: Callable[[DataConfig, ImageShape], ImageDataset],
        progress: Callable[[str], None],
    ) -> None:
        self._folder, self._opened, self._progress = folder / "priors", opened, progress
        self._found: dict[str, Learned] = {}
        self._digests: dict[tuple[ImageDataset, tuple[int, ...]], list[str]] = {}

    def by_attacker(
        self,
        settings: SweepConfig,
        dataset: ImageDataset,
        attackers: Sequence[AttackerConfig],
        attacked: Callable[[str], Collection[str]] = lambda _: (),
    ) -> dict[str, Learned]:
        """`of` for each of the attackers that has a prior, by name; `attacked` gives what trials of one had so far."""
        return {
            attacker.name: self.of(settings, dataset, attacker.prior, attacked=attacked(attacker.name))
            for attacker in attackers
            if attacker.prior is not None
        }

    def of(
        self,
        settings: SweepConfig,
        dataset: ImageDataset,
        wanted: PriorConfig,
        *,
        attacked: Collection[str] = (),
    ) -> Learned:
        """The prior of an attacker in one cell at one seed: `settings` as this cell has them, on its `dataset`.

        It is learned from the public pictures of the cell's data, or of those that `wanted` names, without any that a
        client of the cell holds too. Raises `InputError` where none is left, and where it is none of those that trials
        were `attacked` with so far (`Learned.column`).
        """
        data = settings.data if wanted.data is None else wanted.data
        source = dataset if wanted.data is None else self._opened(wanted.data, dataset.shape)
        public = source.split("test")[: data.public]
        private = set(self._of(dataset, dataset.split("train", settings.data.train)))
        pairs = zip(public, self._of(source, public), strict=True)
        used = {index: digest for index, digest in pairs if digest not in private}
        if not used:
            raise InputError(
                f"cells.{settings.cell.name}: all {len(public)} public pictures of {source.root} are clients' own, and "
                "a prior is learned from others; name other data in prior.data, or leave the prior out."
            )
        key = content_hash(
            {
                "format": FORMAT,
                "training": _training(wanted),
                "seed": settings.seed,
                "threads": settings.execution.threads,
                "shape": source.shape,
                "resize": source.resize,
                "pictures": list(used.values()),
            }
        )
        if key not in self._found:
            prior = self._load(key) or self._train(key, wanted, settings.seed, source, list(used))
            self._found[key] = Learned(
                identity=f"{key}-{tensor_hash(prior.tensors())}",
                prior=prior,
                source=f"{data.kind}:{source.fingerprint}:{len(used)}",
            )
        found = self._found[key]
        if attacked and found.column not in attacked:
            raise InputError(
                f"cells.{settings.cell.name}: the prior learned now ({found.column}) is not the one that finished "
                f"trials had ({', '.join(sorted(attacked))}): its pictures changed, or its file in {self._folder} is "
                "gone and another machine or version gives another one; restore them, or use another --out."
            )
        return found

    def _load(self, key: str) -> PatchMixture | None:
        """The prior under this key; None where there is none, or a damaged one, with a line that says so."""
        path = self._path(key)
        if not path.is_file():
            return None
        try:
            return load_prior(path)
        except Damaged as error:
            self._progress(str(error))
            return None

    def _train(
        self, key: str, wanted: PriorConfig, seed: int, source: ImageDataset, indices: Sequence[int]
    ) -> PatchMixture:
        self._progress(f"training a prior on {len(indices)} public pictures of {source.root}")
        images = torch.stack([source.image(index) for index in indices])
        training = PatchTraining(**_training(wanted))
        save_prior(
            self._path(key), train_patches(images, training, generator("prior", derive_seed("prior", seed)))
        )
        return load_prior(self._path(key))

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.safetensors"

    def _of(self, dataset: ImageDataset, indices: Sequence[int]) -> list[str]:
        """The digests of these pictures' bytes, each read once."""
        asked = (dataset, tuple(indices))
        if asked not in self._digests:
            self._digests[asked] = [dataset.picture(index).digest for index in indices]
        return self._digests[asked]


def _training(wanted: PriorConfig) -> dict[str, Any]:
    """The settings of the training alone."""
    return {field.name: getattr(wanted, field.name) for field in dataclasses.fields(PatchTraining)}
