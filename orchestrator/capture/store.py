"""Content-addressed captures: weights, released records and truths, computed once and kept as safetensors."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from defenses.chain import Chain
from fl_core.base.errors import InputError
from fl_core.base.rng import derive_seed, generator
from fl_core.base.types import ModelState, Truth, clipped_to_zeros
from fl_core.data.dataset import ImageDataset
from fl_core.federation.federation import Federation
from fl_core.federation.simulator import ClientWork, InProcess, Simulator
from fl_core.federation.training import train
from fl_core.models.build import check_batch, initial_state
from fl_core.models.forward import changes_statistics
from fl_core.threat.captures import (
    Victim,
    accompanied,
    capture,
    image_indices,
    smallest_batch,
    victims,
    watch,
)
from fl_core.threat.record import RoundRecord
from orchestrator.capture.files import (
    FILES,
    RECORD,
    adopt_capture,
    adopt_state,
    load_record,
    load_state,
    load_truth,
    save_capture,
    save_state,
)
from orchestrator.config.sweep import SweepConfig
from orchestrator.io.cache import Entries
from orchestrator.io.files import Damaged, clearly
from orchestrator.io.identity import content_hash, tensor_hash

FORMAT = 4
"""Version of what a capture's key and files mean; a change makes old captures unused."""

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Global weights at the start of the captured round, and their hash.

    `history` holds those of every earlier round where clients' momentum carries over, else nothing. `later` holds those
    of the other rounds that are watched, which the hash covers too.
    """

    hash: str
    state: ModelState
    history: tuple[ModelState, ...] = ()
    later: tuple[ModelState, ...] = ()

    @classmethod
    def of(cls, states: Mapping[int, ModelState], captured: int) -> Weights:
        """Of the global weights at the start of each round, the `captured` one among them."""
        seen = [state for number, state in states.items() if number >= captured]
        hashes = [tensor_hash(state.parameters, state.buffers) for state in seen]
        return cls(
            hash=hashes[0] if len(hashes) == 1 else content_hash(hashes),
            state=seen[0],
            history=tuple(state for number, state in states.items() if number < captured),
            later=tuple(seen[1:]),
        )


@dataclass(frozen=True, kw_only=True)
class Capture:
    """One victim's record and truth, with the key that they are stored under."""

    key: str
    record: RoundRecord
    truth: Truth


def captured_federation(
    settings: SweepConfig, defense: Chain, dataset: ImageDataset, *, device: torch.device
) -> Federation:
    """The federation of one cell: `settings` as this cell has them."""
    return Federation(
        config=settings.federation,
        model=defense.on_model(settings.model),
        dataset=dataset,
        train=dataset.split("train", settings.data.train),
        seed=settings.seed,
        device=device,
    )


def check_round(settings: SweepConfig) -> None:
    """Raise `InputError` where the round to capture is none of the federation's."""
    capture, rounds = settings.capture, settings.federation.rounds
    if capture.round >= rounds:
        raise InputError(f"capture.round = {capture.round}: the federation has rounds 0 to {rounds - 1}.")
    if capture.rounds.stop > rounds:
        raise InputError(
            f"capture.watched = {capture.watched}: the federation has {rounds - capture.round} rounds from round "
            f"{capture.round} on."
        )


def check_watched(settings: SweepConfig, defense: Chain) -> None:
    """Raise `InputError` where several rounds are watched that do not hold the same images of one client alone."""
    if settings.capture.watched == 1:
        return
    local = settings.federation.local
    mixing = next((each.label for each in defense.defenses if each.stage == "batch"), None)
    rules = (
        (not settings.federation.flip, "federation.flip: true", "mirrors images anew in each round"),
        (
            not local.is_stateful,
            "federation.local.momentum_state: persistent",
            "mixes each round with the last",
        ),
        (not defense.is_stateful, "error_feedback", "mixes each round with the last"),
        (defense.summing is None, "a secure sum", "mixes other clients in"),
        (mixing is None, f"{mixing}", "has the client train on other images in each round"),
    )
    for holds, what, why in rules:
        if not holds:
            raise InputError(
                f"capture.watched = {settings.capture.watched} does not go with {what}, which {why}; watch 1 round."
            )


def victims_of(settings: SweepConfig, defense: Chain, federation: Federation) -> list[Victim]:
    """See `CaptureSource.victims`."""
    counts, wanted = settings.victims, settings.capture
    found = victims(
        federation,
        wanted.signal,
        first_client=wanted.client,
        round_number=wanted.round,
        count=counts.tuning + counts.test,
    )
    if defense.summing is None:
        return found
    return accompanied(federation, wanted.signal, found, round_number=wanted.round)


class CaptureStore:
    """The captures of one results folder, made when they are first asked for."""

    def __init__(
        self,
        folder: Path,
        *,
        device: torch.device,
        progress: Progress,
        simulator: Callable[[ClientWork], Simulator] = InProcess,
    ) -> None:
        self._folder, self._device, self._progress = folder, device, progress
        self._simulator = simulator
        self._weights: dict[str, Weights] = {}

    def source(
        self,
        settings: SweepConfig,
        defense: Chain,
        dataset: ImageDataset,
        *,
        weights: str | None = None,
        entries: Entries | None = None,
    ) -> CaptureSource:
        """The captures of one cell: `settings` as this cell has them, `entries` what a cache has for it.

        Raises `InputError` where its weights do not have the hash `weights`, of those that its trials attacked so far.
        """
        federation = captured_federation(settings, defense, dataset, device=self._device)
        entries = entries or Entries()
        return CaptureSource(
            folder=self._folder,
            settings=settings,
            defense=defense,
            federation=federation,
            weights=self._trajectory(settings, defense, federation, entries, attacked=weights),
            progress=self._progress,
            entries=entries,
        )

    def drop(self) -> None:
        """Remove all captures from disk, but not weights and trained priors; they are recomputed when needed again."""
        for path in self._folder.iterdir() if self._folder.is_dir() else ():
            if path.name not in ("weights", "priors"):
                _remove(path)

    def _trajectory(
        self,
        settings: SweepConfig,
        defense: Chain,
        federation: Federation,
        entries: Entries,
        *,
        attacked: str | None,
    ) -> Weights:
        """The weights that `settings.capture` asks for: initial, or after so many rounds of training.

        Where trials `attacked` weights of a hash, it must be these: the table would hold each trial twice.
        """
        captured, seen = settings.capture.round, settings.capture.rounds
        check_round(settings)
        is_stateful = settings.federation.local.is_stateful or defense.is_stateful
        wanted = range(seen.stop) if is_stateful else seen
        paths = {number: self._path(settings, defense, federation, number) for number in wanted}
        last = paths[wanted[-1]]
        name = " ".join(path.stem for path in paths.values())
        kept = entries if wanted[-1] else Entries()  # Initial weights are drawn faster than they are read.
        weights = self._weights.get(name)
        if weights is None:
            _adopt(paths, federation, kept)
            weights = self._load(paths, federation, captured)
        if weights is None or attacked not in (None, weights.hash):
            if weights is not None:
                self._progress(f"{last} holds other weights than trials attacked; they are made again")
            self._train(settings, defense, federation, paths)
            weights = self._load(paths, federation, captured)
            for path in paths.values():
                kept.write("weights", path.stem, partial(_contents, path.parent, (path.name,)))
        if weights is None or attacked not in (None, weights.hash):
            raise InputError(
                f"{last} holds other weights than the finished trials attacked, and making them again "
                "gives others too, as another machine or version may; restore the file, or use another --out."
            )
        self._weights[name] = weights
        return weights

    def _load(self, paths: dict[int, Path], federation: Federation, captured: int) -> Weights | None:
        """The weights in these files; None where one is missing, or damaged, with a line that says so."""
        if not all(path.is_file() for path in paths.values()):
            return None
        try:
            states = {number: load_state(path, federation.model) for number, path in paths.items()}
        except Damaged as error:
            self._progress(str(error))
            return None
        return Weights.of(states, captured)

    def _train(
        self, settings: SweepConfig, defense: Chain, federation: Federation, paths: dict[int, Path]
    ) -> None:
        """Train to the last round of `paths` and save the weights at the start of each that it names.

        Where nothing but the weights carries from round to round, training goes on from the latest saved ones.
        """
        chain = defense if settings.capture.weights == "defended" else Chain()
        rounds, dataset, seed = max(paths), federation.dataset, derive_seed("training", settings.seed)
        first, state = 0, initial_state(federation.model, generator("model", settings.seed))
        if 0 in paths:
            save_state(paths[0], state)
        if not (federation.config.local.is_stateful or chain.is_stateful):
            first, state = self._latest(settings, defense, federation, min(paths)) or (first, state)
        held_out = dataset.split("valid", settings.data.valid) if rounds else []
        clients = self._simulator(
            ClientWork(
                federation=federation,
                defense=chain.clients(seed=seed, plan=settings.federation),
                reduction=chain.reduction(seed=seed, plan=settings.federation),
            )
        )
        for result in train(clients, state, rounds=rounds, first=first):
            right = clients.correct(result.state, held_out)
            self._progress(
                f"training to the captured weights: round {result.round + 1} of {rounds}, "
                f"accuracy {right / len(held_out):.0%} on {len(held_out)} validation images"
                + (f"; {clipped_to_zeros(result.not_finite)}" if result.not_finite else "")
            )
            if result.round + 1 in paths:
                save_state(paths[result.round + 1], result.state)

    def _latest(
        self, settings: SweepConfig, defense: Chain, federation: Federation, before: int
    ) -> tuple[int, ModelState] | None:
        """The last round before round `before` whose weights are on disk, and these weights."""
        for number in range(before - 1, 0, -1):
            found = self._load(
                {number: self._path(settings, defense, federation, number)}, federation, number
            )
            if found is not None:
                return number, found.state
        return None

    def _path(self, settings: SweepConfig, defense: Chain, federation: Federation, number: int) -> Path:
        """Where the global weights at the start of round `number` lie."""
        key = _state_key(settings, defense, federation, number)
        return self._folder / "weights" / f"{key}.safetensors"


@dataclass(frozen=True, kw_only=True)
class CaptureSource:
    """Makes one cell's captures; see `CaptureStore.source`."""

    folder: Path
    settings: SweepConfig
    defense: Chain
    federation: Federation
    weights: Weights
    progress: Progress
    entries: Entries

    def victims(self) -> list[Victim]:
        """Tuning victims, then test victims: disjoint, the same for every cell that shares the settings.

        Under a secure sum each has companions, none of which is in two sums.
        """
        return victims_of(self.settings, self.defense, self.federation)

    def key(self, victim: Victim) -> str:
        """The capture's content address."""
        return content_hash(
            {
                "format": FORMAT,
                "data": self.federation.dataset.fingerprint,
                "train": self.settings.data.train,
                "weights": self.weights.hash,
                "model": self.federation.model,
                "federation": self.settings.federation,
                "seed": self.settings.seed,
                "defense": self.defense,
                "signal": self.settings.capture.signal,
                "round": self.settings.capture.round,
                "victim": victim,
            }
            | ({"watched": watched} if (watched := self.settings.capture.watched) > 1 else {})
        )

    def get(self, victim: Victim) -> Capture:
        """The capture of `victim`, from disk where it lies there undamaged, else from a cache, or computed; stored."""
        key = self.key(victim)
        path = self.folder / key
        if (path / RECORD).is_file():
            try:
                return self._with_statistics(self._read(key))
            except Damaged as error:
                self.progress(str(error))
                _remove(path)
        found = self.entries.read("captures", key, partial(self._adopt, key))
        if found is not None:
            return found
        record, truth = self._compute(victim)
        save_capture(path, record, truth, weights=self.weights.hash, version=FORMAT)
        self.entries.write("captures", key, partial(_contents, path, FILES))
        return self._read(key)

    def discard(self, key: str) -> None:
        """Remove the capture under this key from disk, where there is one; it is recomputed when it is needed again."""
        _remove(self.folder / key)

    def missing_images(self) -> set[int]:
        """The images, by index, that captures still have to be made of."""
        wanted = self.settings.capture
        return {
            index
            for victim in self.victims()
            if not (self.folder / self.key(victim) / RECORD).is_file()
            for index in image_indices(
                self.federation, wanted.signal, round_number=wanted.round, victim=victim
            )
        }

    def _compute(self, victim: Victim) -> tuple[RoundRecord, Truth]:
        settings = self.settings
        # By client and batch, which are no other victim's: whoever is in two captures draws anew in each.
        seed = derive_seed("capture", settings.seed, victim.client, victim.batch)
        if settings.capture.watched > 1:
            return watch(
                self.federation,
                [state.to(self.federation.device) for state in (self.weights.state, *self.weights.later)],
                signal=settings.capture.signal,
                round_number=settings.capture.round,
                victim=victim,
                defense=self.defense.clients(seed=seed, plan=settings.federation),
                facts=self.defense.facts(settings.federation),
            )
        return capture(
            self.federation,
            self.weights.state.to(self.federation.device),
            signal=settings.capture.signal,
            round_number=settings.capture.round,
            victim=victim,
            defense=self.defense.clients(seed=seed, plan=settings.federation),
            facts=self.defense.facts(settings.federation),
            history=tuple(state.to(self.federation.device) for state in self.weights.history),
            secure=self.defense.secure_sum(seed=seed, plan=settings.federation),
            mean=self.defense.fixed_mean(seed=seed, plan=settings.federation),
        )

    def _adopt(self, key: str, files: Mapping[str, bytes]) -> Capture:
        """The capture in these files of a cache, which become the folder's; raises `Damaged` or `KeyError`."""
        adopt_capture(self.folder / key, files)
        try:
            return self._with_statistics(self._read(key))
        except Damaged:
            _remove(self.folder / key)
            raise

    def _read(self, key: str) -> Capture:
        path = self.folder / key
        settings = RoundRecord(
            signal=self.settings.capture.signal,
            round=self.settings.capture.round,
            model=self.federation.model,
            state=self.weights.state,
            batch_size=self.settings.federation.local.batch_size,
            updates=(),
            facts=self.defense.facts(self.settings.federation),
        )
        numbered = enumerate(self.weights.later, start=settings.round + 1)
        settings = replace(
            settings, later=tuple(replace(settings, round=number, state=state) for number, state in numbered)
        )
        record = load_record(path, settings, weights=self.weights.hash, version=FORMAT)
        return Capture(key=key, record=record, truth=load_truth(path))

    def _with_statistics(self, found: Capture) -> Capture:
        """The capture itself; raises `Damaged` for a gradient from before buffers came with it, where they are seen."""
        wanted = self.settings.threat.sees_statistics and found.record.signal == "gradients"
        if wanted and not found.record.updates[0].buffers and changes_statistics(self.federation.network):
            path = self.folder / found.key
            raise Damaged.of(
                path, "it is without the change of BatchNorm's statistics", "it is computed again"
            )
        return found


def check_batches(settings: SweepConfig, federation: Federation, found: Sequence[Victim]) -> None:
    """Raise `InputError` for a batch, of training or of a victim, that BatchNorm can't normalise by itself."""
    if federation.model.batch_norm == "eval":
        return
    wanted = settings.capture
    attacked = smallest_batch(federation, wanted.signal, round_number=wanted.round, found=found)
    trained = federation.smallest_batch(range(wanted.rounds.stop - 1))
    check_batch(federation.model, min(attacked, trained or attacked))


def _state_key(settings: SweepConfig, defense: Chain, federation: Federation, number: int) -> str:
    """The content address of the global weights at the start of round `number`."""
    defended = settings.capture.weights == "defended"
    return content_hash(
        {
            "format": FORMAT,
            "data": federation.dataset.fingerprint,
            "train": settings.data.train,
            "model": federation.model,
            "federation": settings.federation,
            "seed": settings.seed,
            "round": number,
            "defense": defense if defended and number else None,
        }
    )


def _adopt(paths: Mapping[int, Path], federation: Federation, entries: Entries) -> None:
    """Take weights that the folder lacks from a cache, where it has them."""
    for path in paths.values():
        if path.is_file():
            continue

        def parse(files: Mapping[str, bytes], path: Path = path) -> ModelState:
            adopt_state(path, files[path.name])
            try:
                return load_state(path, federation.model)
            except Damaged:
                path.unlink()
                raise

        entries.read("weights", path.stem, parse)


def _contents(folder: Path, names: Sequence[str]) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names}


def _remove(path: Path) -> None:
    """Remove a capture's folder, where there is one."""
    with clearly("remove", path):
        if path.is_dir():
            # First, because its presence says that the capture is whole.
            (path / RECORD).unlink(missing_ok=True)
            shutil.rmtree(path)
