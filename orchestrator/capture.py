"""Content-addressed captures: weights, released records and truths, computed once and kept as safetensors."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from defenses.chain import Chain
from fl_core.capture import Victim, accompanied, capture, image_indices, smallest_batch, victims
from fl_core.celeba import FaceDataset
from fl_core.clients import ClientWork, InProcess, Simulator
from fl_core.errors import InputError
from fl_core.models import ModelConfig, check_batch, initial_state
from fl_core.rng import derive_seed, generator
from fl_core.server import Federation, train
from fl_core.types import (
    ClientUpdate,
    EarlierUpdate,
    ModelState,
    OpenedSum,
    RoundRecord,
    Tensors,
    Truth,
    clipped_to_zeros,
)
from orchestrator.config import SweepConfig
from orchestrator.files import clearly, read_bytes, read_json, write_atomically
from orchestrator.identity import content_hash, tensor_hash

FORMAT = 4
"""Version of what a capture's key and files mean; a change makes old captures unused."""

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Global weights at the start of the captured round, and their hash.

    `history` holds those of every earlier round where clients' momentum carries over, else nothing.
    """

    hash: str
    state: ModelState
    history: tuple[ModelState, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Capture:
    """One victim's record and truth, with the key that they are stored under."""

    key: str
    record: RoundRecord
    truth: Truth


def captured_federation(
    settings: SweepConfig, defense: Chain, dataset: FaceDataset, *, device: torch.device
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
    if settings.capture.round >= settings.federation.rounds:
        raise InputError(
            f"capture.round = {settings.capture.round}: the federation has rounds 0 to "
            f"{settings.federation.rounds - 1}."
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

    def source(self, settings: SweepConfig, defense: Chain, dataset: FaceDataset) -> CaptureSource:
        """The captures of one cell: `settings` as this cell has them."""
        federation = captured_federation(settings, defense, dataset, device=self._device)
        weights = self._trajectory(settings, defense, federation)
        return CaptureSource(
            folder=self._folder, settings=settings, defense=defense, federation=federation, weights=weights
        )

    def drop(self) -> None:
        """Remove all captures from disk, but not the weights; they are recomputed when they are needed again."""
        for path in self._folder.iterdir() if self._folder.is_dir() else ():
            if path.name != "weights":
                _remove(path)

    def _trajectory(self, settings: SweepConfig, defense: Chain, federation: Federation) -> Weights:
        """The weights that `settings.capture` asks for: initial, or after so many rounds of training."""
        rounds = settings.capture.round
        check_round(settings)
        remembers = settings.federation.local.remembers or defense.remembers
        wanted = range(rounds + 1) if remembers else range(rounds, rounds + 1)
        paths = {number: self._path(settings, defense, federation, number) for number in wanted}
        name = paths[rounds].stem
        if name in self._weights:
            return self._weights[name]
        if not all(path.is_file() for path in paths.values()):
            self._train(settings, defense, federation, paths)
        *history, state = (_load_state(path, federation.model) for path in paths.values())
        weights = Weights(
            hash=tensor_hash(state.parameters, state.buffers), state=state, history=tuple(history)
        )
        self._weights[name] = weights
        return weights

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
            _save_state(paths[0], state)
        if not (federation.config.local.remembers or chain.remembers):
            first, state = self._latest(settings, defense, federation, rounds) or (first, state)
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
                _save_state(paths[result.round + 1], result.state)

    def _latest(
        self, settings: SweepConfig, defense: Chain, federation: Federation, before: int
    ) -> tuple[int, ModelState] | None:
        """The last round before round `before` whose weights are on disk, and these weights."""
        for number in range(before - 1, 0, -1):
            path = self._path(settings, defense, federation, number)
            if path.is_file():
                return number, _load_state(path, federation.model)
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
        )

    def get(self, victim: Victim) -> Capture:
        """The capture of `victim`, from disk where it lies there, else computed and stored."""
        key = self.key(victim)
        path = self.folder / key
        if not (path / "record.json").is_file():
            self._store(path, *self._compute(victim))
        return Capture(key=key, record=self._read_record(path), truth=_read_truth(path))

    def discard(self, key: str) -> None:
        """Remove the capture under this key from disk, where there is one; it is recomputed when it is needed again."""
        _remove(self.folder / key)

    def missing_images(self) -> set[int]:
        """The images, by index, that captures still have to be made of."""
        wanted = self.settings.capture
        return {
            index
            for victim in self.victims()
            if not (self.folder / self.key(victim) / "record.json").is_file()
            for index in image_indices(
                self.federation, wanted.signal, round_number=wanted.round, victim=victim
            )
        }

    def _compute(self, victim: Victim) -> tuple[RoundRecord, Truth]:
        settings = self.settings
        # By client and batch, which are no other victim's: whoever is in two captures draws anew in each.
        seed = derive_seed("capture", settings.seed, victim.client, victim.batch)
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

    def _store(self, path: Path, record: RoundRecord, truth: Truth) -> None:
        tensors: dict[str, torch.Tensor] = {}
        described: list[dict[str, Any]] = []
        for i, update in enumerate(record.updates):
            tensors |= {f"{i}.tensor.{name}": _stored(value) for name, value in update.tensors.items()}
            tensors |= {f"{i}.buffer.{name}": _stored(value) for name, value in update.buffers.items()}
            described.append(_without_tensors(update))
        opened = record.aggregate
        if opened is not None:
            tensors |= {f"aggregate.tensor.{name}": _stored(value) for name, value in opened.tensors.items()}
            tensors |= {f"aggregate.buffer.{name}": _stored(value) for name, value in opened.buffers.items()}
            tensors |= {f"aggregate.hidden.{name}": _stored(value) for name, value in opened.hidden.items()}
        for past in record.earlier:
            prefix = f"earlier.{past.round}."
            tensors |= {f"{prefix}{name}": _stored(value) for name, value in past.tensors.items()}
        if record.published is not None:
            tensors |= {f"published.{name}": _stored(value) for name, value in record.published.items()}
        earlier = [{"round": past.round, "steps": past.steps} for past in record.earlier]
        _make_folder(path)
        _save_tensors(path / "record.safetensors", tensors)
        _save_tensors(path / "truth.safetensors", {"images": truth.images, "labels": truth.labels})
        names = {"ids": list(truth.ids), "clients": list(truth.clients)}
        write_atomically(path / "truth.json", json.dumps(names).encode())
        # Last, because its presence says that the capture is whole.
        write_atomically(
            path / "record.json",
            json.dumps(
                {
                    "format": FORMAT,
                    "weights": self.weights.hash,
                    "updates": described,
                    "earlier": earlier,
                    "aggregate": None if opened is None else _without_tensors(opened),
                    "shares": record.shares,
                },
                indent=1,
            ).encode(),
        )

    def _read_record(self, path: Path) -> RoundRecord:
        described = read_json(path / "record.json", version=FORMAT)
        tensors = _load_tensors(path / "record.safetensors")
        updates = []
        for i, fields in enumerate(described["updates"]):
            updates.append(
                ClientUpdate(
                    tensors=_with_prefix(tensors, f"{i}.tensor."),
                    buffers=_with_prefix(tensors, f"{i}.buffer."),
                    **fields,
                )
            )
        return RoundRecord(
            signal=self.settings.capture.signal,
            round=self.settings.capture.round,
            model=self.federation.model,
            state=self.weights.state,
            batch_size=self.settings.federation.local.batch_size,
            updates=tuple(updates),
            facts=self.defense.facts(self.settings.federation),
            earlier=tuple(
                EarlierUpdate(tensors=_with_prefix(tensors, f"earlier.{fields['round']}."), **fields)
                for fields in described["earlier"]
            ),
            aggregate=_read_opened(described["aggregate"], tensors),
            shares=tuple(described["shares"]),
            published=_with_prefix(tensors, "published.") or None,
        )


def check_batches(settings: SweepConfig, federation: Federation, found: Sequence[Victim]) -> None:
    """Raise `InputError` for a batch, of training or of a victim, that BatchNorm can't normalise by itself."""
    if federation.model.batch_norm == "eval":
        return
    wanted = settings.capture
    attacked = smallest_batch(federation, wanted.signal, round_number=wanted.round, found=found)
    trained = federation.smallest_batch(range(wanted.round))
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


def _without_tensors(value: ClientUpdate | OpenedSum) -> dict[str, Any]:
    """Every field that holds no tensors."""
    names = [f.name for f in dataclasses.fields(value) if f.name not in ("tensors", "buffers", "hidden")]
    return {name: getattr(value, name) for name in names}


def _read_opened(described: dict[str, Any] | None, tensors: Tensors) -> OpenedSum | None:
    if described is None:
        return None
    return OpenedSum(
        tensors=_with_prefix(tensors, "aggregate.tensor."),
        buffers=_with_prefix(tensors, "aggregate.buffer."),
        hidden=_with_prefix(tensors, "aggregate.hidden."),
        **described | {"shares": tuple(described["shares"])},
    )


def _read_truth(path: Path) -> Truth:
    tensors = _load_tensors(path / "truth.safetensors")
    names = read_json(path / "truth.json")
    return Truth(
        images=tensors["images"],
        labels=tensors["labels"],
        ids=tuple(names["ids"]),
        clients=tuple(names["clients"]),
    )


def _stored(value: torch.Tensor) -> torch.Tensor:
    return value.detach().cpu().contiguous()


def _save_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    write_atomically(path, save(tensors))


def _load_tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        # The library gives them in no fixed order, and random draws for one after the other must not depend on it.
        return dict(sorted(load(read_bytes(path)).items()))
    except (SafetensorError, FileNotFoundError) as error:
        what = path if path.parent.name == "weights" else path.parent
        raise InputError(f"{path} is damaged ({error}); remove {what} to have it computed again.") from error


def _remove(path: Path) -> None:
    """Remove a capture's folder, where there is one."""
    with clearly("remove", path):
        if path.is_dir():
            # First, because its presence says that the capture is whole.
            (path / "record.json").unlink(missing_ok=True)
            shutil.rmtree(path)


def _make_folder(path: Path) -> None:
    with clearly("write", path):
        path.mkdir(parents=True, exist_ok=True)


def _save_state(path: Path, state: ModelState) -> None:
    _make_folder(path.parent)
    tensors = {f"parameter.{k}": _stored(v) for k, v in state.parameters.items()}
    _save_tensors(path, tensors | {f"buffer.{k}": _stored(v) for k, v in state.buffers.items()})


def _load_state(path: Path, model: ModelConfig) -> ModelState:
    tensors = _load_tensors(path)
    like = initial_state(model, torch.Generator().manual_seed(0))
    return ModelState(
        parameters={name: tensors[f"parameter.{name}"] for name in like.parameters},
        buffers={name: tensors[f"buffer.{name}"] for name in like.buffers},
    )


def _with_prefix(tensors: Tensors, prefix: str) -> dict[str, torch.Tensor]:
    # safetensors sorts names; the model's own order is restored by whoever pairs them with parameters.
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
