"""One experiment from the command line: the flags of the original project, run through the sweep's machinery."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn, get_args

from rich.console import Console

from attack_core.attacks.registry import NAMED, AnyAttack
from attack_core.gradients.comparison.layers import LayerMode
from attack_core.gradients.objectives import L2, Both, Cosine, Objective, Similarity
from attack_core.matching.candidates import EarlyStop
from attack_core.matching.matching import Matching
from attack_core.matching.schedules import OptimizerName, Schedule
from attack_core.matching.settings import Preset
from attack_core.signal.choices import Init, LabelStrategy
from defenses.dp.local import DPUpdate
from defenses.he.encryption import CKKS, INSECURE, InsecureKey, Paillier
from fl_core.base.device import DEVICES
from fl_core.base.errors import InputError, hint, natural, unknown_name
from fl_core.federation.client import LocalTraining
from fl_core.federation.rounds import FederationConfig
from fl_core.models.config import ModelConfig, ModelName
from fl_core.threat.model import ThreatModel
from orchestrator.cli.arguments import check_choices
from orchestrator.config.sweep import (
    AttackerConfig,
    CaptureConfig,
    CellConfig,
    DataConfig,
    ExecutionConfig,
    SweepConfig,
    VictimsConfig,
)
from orchestrator.io.files import write_atomically
from orchestrator.runtime.stop import Stop, Stopped

SOURCES = ("gradients", "one_step_update", "local_update", "agg_update")


def _number(text: str) -> float:
    """A flag's number; infinite ones and those that are none are refused."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text[:40]!r}: must be a finite number")
    return value


def _whole(text: str) -> int:
    """A flag's whole number, of at most 64 bits."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text[:40]!r}: must be a whole number") from None
    if abs(value) >= 2**63:
        raise argparse.ArgumentTypeError(f"{text[:40]!r}: must be a whole number of less than 19 digits")
    return value


def _flag(default: Any, text: str, *, sets: str = "", also: str = "", **options: Any) -> Any:
    """A dataclass field that carries its flag's help text and argparse options.

    `sets` names the field of `Matching` that the flag sets, `also` is a second name of the flag.
    """
    return field(default=default, metadata={"help": text, "sets": sets, "also": also, "options": options})


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Every flag of `run_experiment.py` with its default, in the order of `--help`.

    `given` names the flags that stood on the command line; it is no flag itself.
    """

    data_root: str = _flag(
        "data",
        "folder in CelebA's layout; without this flag, and without CelebA in data, synthetic faces are used",
    )
    target_attr: str = _flag("Male", "attribute to classify")
    attack: str = _flag("matching", f"which attack: {', '.join(NAMED)}")
    model: str = _flag("cnn64", "the clients' network", choices=get_args(ModelName))
    image_size: int = _flag(64, "pixels on a side", type=_whole)
    victims: int = _flag(1, "how many victims, each attacked alone", type=_whole)
    device: str = _flag("auto", "where to compute", choices=DEVICES)
    seed: int = _flag(42, "fixes everything random", type=_whole)
    out_dir: str | None = _flag(None, "results folder [results/baseline_TIMESTAMP]")
    save_config: bool = _flag(False, "accepted as before; config.json is always written")
    num_clients: int = _flag(10, "clients", type=_whole)
    batch_size: int = _flag(1, "images in one local step", type=_whole)
    data_subset: int = _flag(200, "images in all; a fifth of them is for validation", type=_whole)
    num_rounds: int = _flag(5, "federated rounds", type=_whole)
    local_epochs: int = _flag(1, "epochs of local training", type=_whole)
    local_steps: int | None = _flag(None, "steps of local training at most [all]", type=_whole)
    client_lr: float = _flag(0.01, "client learning rate", type=_number)
    client_momentum: float = _flag(0.9, "client momentum", type=_number)
    no_augment: bool = _flag(False, "no random mirroring of training images")
    capture_client: int = _flag(0, "the client whose first batch is the first victim", type=_whole)
    capture_round: int | None = _flag(
        None, "round to capture, after training for so many [the last]", also="--round", type=_whole
    )
    attack_source: str = _flag("gradients", "the captured signal", also="--signal", choices=SOURCES)
    attack_iterations: int = _flag(2000, "iterations", sets="iterations", type=_whole)
    attack_lr: float = _flag(0.1, "learning rate", sets="lr", type=_number)
    tv_weight: float = _flag(0.001, "weight of total variation", sets="tv_weight", type=_number)
    attack_optimizer: str = _flag("adam", "optimizer", sets="optimizer", choices=get_args(OptimizerName))
    attack_restarts: int = _flag(1, "restarts, run together", sets="restarts", type=_whole)
    attack_batch: int = _flag(1, "images to reconstruct from one signal", sets="images", type=_whole)
    label_strategy: str = _flag(
        "auto", "how labels are found", sets="labels", choices=get_args(LabelStrategy)
    )
    controls: bool = _flag(False, "attack norm-matched noise too: what the attack paints by itself")
    compute_lpips: bool = _flag(False, "LPIPS too, where its weights are at hand")
    lr_schedule: str = _flag("none", "learning-rate schedule", sets="schedule", choices=get_args(Schedule))
    early_stop: bool = _flag(False, "stop a restart that no longer improves", sets="early_stop")
    patience: int = _flag(
        500, "iterations without improvement before stopping", sets="early_stop", type=_whole
    )
    min_delta: float = _flag(1e-4, "least improvement that counts", sets="early_stop", type=_number)
    fft_init: bool = _flag(False, "start from 1/f noise", sets="init")
    preset: str = _flag("none", "TV weight and clamp together", sets="preset", choices=get_args(Preset))
    match_metric: str = _flag(
        "l2", "matching objective", sets="objective", choices=("l2", "cosine", "both", "sim")
    )
    l2_weight: float = _flag(1.0, "weight of L2 in 'both'", sets="objective", type=_number)
    cos_weight: float = _flag(1.0, "weight of cosine in 'both'", sets="objective", type=_number)
    use_layers: tuple[str, ...] = _flag(
        ("all",), "indices of the parameters to match, or all", sets="layers", nargs="+"
    )
    select_by_name: tuple[str, ...] | None = _flag(
        None, "match parameters whose name contains one of these", sets="layer_names", nargs="+"
    )
    layer_weights: tuple[str, ...] = _flag(
        ("uniform",), "a mode, or one number for each parameter", sets="layer_weights", nargs="+"
    )
    no_heatmap: bool = _flag(False, "leave the row of error maps out of the picture")
    dp_epsilon: float | None = _flag(
        None,
        "differential privacy of one release (dp_update): epsilon, zero_out adjacency [off]",
        type=_number,
    )
    dp_delta: float = _flag(1e-5, "delta", type=_number)
    dp_max_norm: float = _flag(1.0, "L2 norm that updates are clipped to", type=_number)
    use_he: bool = _flag(
        False, "homomorphic encryption of a round's updates: the server sees their sum alone"
    )
    he_scheme: str = _flag(
        "ckks", "encryption scheme; --he-bits and --he-precision mean paillier", choices=("ckks", "paillier")
    )
    he_bits: int | None = _flag(None, "Paillier key size [2048]", type=_whole)
    he_precision: int | None = _flag(None, "Paillier fixed-point factor [1000000]", type=_whole)
    yes: bool = _flag(False, "start encryption that takes long (Paillier on a large network)")
    given: tuple[str, ...] = ()

    def sweep(self) -> SweepConfig:
        """The same experiment as a sweep of one cell with a fixed attacker."""
        self._check_encryption()
        if self.data_subset < 5:
            raise InputError(
                f"--data-subset {self.data_subset}: must be at least 5, a fifth is for validation."
            )
        valid = self.data_subset // 5
        return SweepConfig(
            name="experiment",
            seed=self.seed,
            data=DataConfig(
                root=self.data_root, attribute=self.target_attr, train=self.data_subset - valid, valid=valid
            ),
            model=ModelConfig(kind=self.model, image_size=self.image_size),  # type: ignore[arg-type]
            federation=FederationConfig(
                clients=self.num_clients,
                rounds=self.num_rounds,
                flip=not self.no_augment,
                local=LocalTraining(
                    lr=self.client_lr,
                    momentum=self.client_momentum,
                    epochs=self.local_epochs,
                    batch_size=self.batch_size,
                    max_steps=self.local_steps,
                ),
            ),
            capture=CaptureConfig(
                signal=self.attack_source,  # type: ignore[arg-type]  # argparse checked the choice
                round=self.num_rounds - 1 if self.capture_round is None else self.capture_round,
                client=self.capture_client,
            ),
            threat=ThreatModel(labels="known" if self.label_strategy == "known" else "unknown"),
            victims=VictimsConfig(tuning=0, test=self.victims),
            execution=ExecutionConfig(
                device=self.device,
                controls=self.controls,
                lpips=self.compute_lpips,
                keep_captures=False,
                allow_slow=self.yes,
            ),
            cells=(CellConfig(name="experiment", defense=self._defense()),),
            attackers=(AttackerConfig(name=self.attack, attack=self.chosen_attack()),),
        )

    def chosen_attack(self) -> AnyAttack:
        """The attack that the flags describe.

        `matching` is the original's, all of whose settings are flags. Any other has settings of its own, and of
        the flags only those that were given change its matching loop.
        """
        if self.attack not in NAMED:
            raise unknown_name("--attack", self.attack, NAMED)
        described = self._matching()
        if self.attack == "matching":
            return described
        flags = {entry.name: entry.metadata.get("sets", "") for entry in dataclasses.fields(self)}
        changed = {name: getattr(described, name) for flag in self.given if (name := flags[flag])}
        return NAMED[self.attack].with_matching(changed)

    def _matching(self) -> Matching:
        init: Init = "fourier" if self.fft_init else "normal"
        return Matching(
            iterations=self.attack_iterations,
            restarts=self.attack_restarts,
            optimizer=self.attack_optimizer,  # type: ignore[arg-type]
            lr=self.attack_lr,
            schedule=self.lr_schedule,  # type: ignore[arg-type]
            objective=self._objective(),
            tv_weight=self.tv_weight,
            # No preset is the clamp of +-2; the preset called none is what `--preset none` asks for by name.
            preset=None if self.preset == "none" else self.preset,  # type: ignore[arg-type]
            early_stop=EarlyStop(patience=self.patience, min_delta=self.min_delta)
            if self.early_stop
            else None,
            init=init,
            layers=_indices(self.use_layers),
            layer_names=_split(self.select_by_name) if self.select_by_name else None,
            layer_weights=_weights(self.layer_weights),
            labels=self.label_strategy,  # type: ignore[arg-type]
            images=self.attack_batch,
        )

    def _objective(self) -> Objective:
        match self.match_metric:
            case "cosine":
                return Cosine()
            case "sim":
                return Similarity()
            case "both":
                return Both(l2_weight=self.l2_weight, cos_weight=self.cos_weight)
            case _:
                return L2()

    def _defense(self) -> tuple[DPUpdate | CKKS | Paillier, ...]:
        """Noise first, encryption after it, as the flags ask."""
        chain: list[DPUpdate | CKKS | Paillier] = []
        if self.dp_epsilon is not None:
            chain.append(
                DPUpdate(
                    epsilon=self.dp_epsilon,
                    delta=self.dp_delta,
                    max_norm=self.dp_max_norm,
                    budget="release",
                )
            )
        if self.use_he:
            chain.append(self._encryption())
        return tuple(chain)

    def _encryption(self) -> CKKS | Paillier:
        """The real scheme that `--use-he` stands for: CKKS, or Paillier with the key and precision asked for."""
        asked = {"key_bits": self.he_bits, "precision": self.he_precision}
        given = {name: value for name, value in asked.items() if value is not None}
        if self.he_scheme == "paillier" or (given and "he_scheme" not in self.given):
            return Paillier(**given)  # type: ignore[arg-type]
        return CKKS()

    def _check_encryption(self) -> None:
        for flag, value in (("--he-bits", self.he_bits), ("--he-precision", self.he_precision)):
            if value is not None and not self.use_he:
                raise InputError(f"{flag} {value} goes with --use-he, which is not given.")
            if value is not None and self.he_scheme == "ckks" and "he_scheme" in self.given:
                raise InputError(f"{flag} {value} goes with --he-scheme paillier; ckks has no such setting.")

    def remarks(self) -> list[str]:
        """What a person should know of the flags before the work begins."""
        found = []
        sets = {
            _spelling(entry): entry.name for entry in dataclasses.fields(self) if entry.metadata.get("sets")
        }
        changed = [flag for flag, name in sets.items() if name in self.given]
        if changed and self.attack in NAMED and NAMED[self.attack].kind != "matching":
            verb = "changes" if len(changed) == 1 else "change"
            found.append(
                f"{', '.join(changed)} {verb} the matching that --attack {self.attack} falls back to; what it does "
                "before that stays as it is."
            )
        if any(isinstance(each, Paillier) and each.key_bits == 512 for each in self._defense()):
            found.append(INSECURE)
        return found


def _spelling(entry: dataclasses.Field[Any]) -> str:
    """A field's flag as it is typed."""
    return f"--{entry.name.replace('_', '-')}"


class _Parser(argparse.ArgumentParser):
    @property
    def flags(self) -> list[str]:
        """Every flag in its long form."""
        return [flag for action in self._actions for flag in action.option_strings if flag.startswith("--")]

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (see --help)")


def parser() -> _Parser:
    """A parser with one flag for each field of `Experiment`."""
    built = _Parser(
        prog="gradsweep run",
        description="Capture one federated signal, invert it, and write picture, metrics and a results folder.",
        allow_abbrev=False,
    )
    for entry in dataclasses.fields(Experiment):
        if not entry.metadata:
            continue
        options, text, also = (entry.metadata[key] for key in ("options", "help", "also"))
        if entry.default is False:
            options = options | {"action": "store_true"}
        shown = "" if entry.default in (None, False) else f" [{_shown(entry.default)}]"
        built.add_argument(
            _spelling(entry),
            *([also] if also else []),
            default=argparse.SUPPRESS,
            help=f"{text}{shown}".replace("%", "%%"),
            **options,
        )
    return built


def parse(arguments: Sequence[str]) -> Experiment:
    """Flags to an experiment; raises `InputError` for anything unknown or malformed."""
    built = parser()
    found, unknown = built.parse_known_args(list(arguments))
    if unknown:
        flag = next((word for word in unknown if word.startswith("--")), unknown[0]).partition("=")[0]
        near = hint(flag, built.flags) if flag.startswith("--") else ""
        built.error(f"unrecognized arguments: {' '.join(unknown)}.{near}")
    values: dict[str, Any] = vars(found)
    lists_to_tuples: dict[str, Any] = {
        name: tuple(v) if isinstance(v, list) else v for name, v in values.items()
    }
    return Experiment(**lists_to_tuples, given=tuple(sorted(values)))


def run(experiment: Experiment, console: Console, stop: Stop | None = None) -> int:
    """Run it, write its outputs, print its figures; the exit code. Raises `Stopped` when `stop` was told to."""
    folder = Path(experiment.out_dir or f"results/baseline_{datetime.now():%Y%m%d_%H%M%S}")
    config = experiment.sweep()
    for remark in experiment.remarks():
        console.print(remark, highlight=False, markup=False, soft_wrap=True)
    check_choices(config, cells=None, address="serial")
    # With Ray, pandas and matplotlib, for which a refusal does not wait.
    from orchestrator.analysis.summary import summary_lines, write_summary
    from orchestrator.driver.sweep import run_sweep
    from orchestrator.report.reader import Results
    from orchestrator.report.run_outputs import CONFIG, write_outputs
    from orchestrator.runtime.progress import ConsoleReporter

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InsecureKey)  # It is among the remarks.
            outcome = run_sweep(
                config, folder, address="serial", reporter=ConsoleReporter(console), stop=stop
            )
    except Stopped:
        if experiment.out_dir is None:
            console.print(f"Give --out-dir {folder} to go on with this run.", soft_wrap=True)
        raise
    arguments = dataclasses.asdict(experiment) | {"out_dir": str(folder)}
    write_atomically(folder / CONFIG, json.dumps(arguments, indent=2).encode())
    lines = summary_lines(folder)
    write_summary(folder, lines)
    console.print(Results(folder, lines).data, markup=False, highlight=False, soft_wrap=True)
    write_outputs(
        folder, lines[0], heatmap=not experiment.no_heatmap, lpips=experiment.compute_lpips, console=console
    )
    return 1 if outcome.failed else 0


def _split(words: Sequence[str]) -> tuple[str, ...]:
    """Words given apart or joined by commas."""
    return tuple(part for word in words for part in word.split(",") if part)


def _indices(words: Sequence[str]) -> tuple[int, ...] | None:
    parts = _split(words)
    if parts == ("all",):
        return None
    found = []
    for part in parts:
        index = natural(part)
        if index is None:
            raise InputError(f"--use-layers {part!r}: must be parameter indices such as 0 1 2, or all.")
        found.append(index)
    return tuple(found)


def _weights(words: Sequence[str]) -> LayerMode | tuple[float, ...]:
    parts = _split(words)
    modes: tuple[LayerMode, ...] = get_args(LayerMode)
    for mode in modes:
        if parts == (mode,):
            return mode
    try:
        return tuple(_number(part) for part in parts)
    except argparse.ArgumentTypeError:
        raise unknown_name("--layer-weights", " ".join(parts), modes) from None


def _shown(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
