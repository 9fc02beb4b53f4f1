"""What a sweep file says: typed, validated, every unknown key refused by name."""

from __future__ import annotations

import fnmatch
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from attack_core.attacks.registry import AnyAttack
from attack_core.base.programs.ways import Programs
from attack_core.matching.matching import Matching
from attack_core.priors.training import PatchTraining
from defenses.chain import AnyDefense, Chain
from defenses.mechanism.own import OwnDefense
from fl_core.base.device import Precision
from fl_core.base.errors import InputError
from fl_core.base.types import LATER, Config, InUnits, Signal, require
from fl_core.data.resize import Resize
from fl_core.data.splits import SeededSplit
from fl_core.federation.rounds import FederationConfig
from fl_core.models.config import ModelConfig
from fl_core.threat.model import ThreatModel
from orchestrator.axes.values import GROUPS, plain_name
from orchestrator.config.address import check_address
from orchestrator.config.scale import Strength
from orchestrator.config.space import Parameter, Space

Json = dict[str, object] | list[object] | str | float | int | bool | None

LONGEST_NAME = 200
"""So many bytes may the name of a sweep, a cell or an attacker have: folders and table columns have it."""

MOST_SEEDS = 100
"""So often may a sweep be repeated."""

JOURNAL = "journal"
"""The storage that is a file in the results folder."""


DataKind = Literal["auto", "celeba", "synthetic", "folder", "arrays", "parquet", "torchvision"]
"""Where pictures come from; `auto` becomes CelebA or synthetic faces."""

_KINDS_WITH: Mapping[str, tuple[str, ...]] = {
    "name": ("torchvision",),
    "download": ("torchvision",),
    "split": ("folder", "arrays", "parquet", "torchvision"),
}
"""The settings that only some kinds have."""


@dataclass(frozen=True, kw_only=True)
class DataConfig(Config):
    """Where the pictures come from.

    `auto` takes CelebA where it lies under `root`; where that is the default and holds none, synthetic faces, written
    once under `root/synthetic_faces`. A root that is named must hold the data; `~` is a home folder in it. Clients
    hold the first `train` images of the train split, accuracy is measured on the first `valid` of the validation
    split, and the mean public image is that of at most `public` of the test
    split: three disjoint sets. null means all.

    Other kinds are named: `folder` (a folder of pictures for each class), `arrays` (an `.npz` file), `parquet` (files
    in Hugging Face's image layout), `torchvision` (the set `name`, fetched only where `download` is true). `resize`
    says how pictures come to the network's size; null means `crop`. `split` cuts a set that has no splits, or lacks
    one; null means 80% train, 10% valid, 10% test by seed 0. `attribute` is CelebA's; a list of k gives 2^k classes.
    """

    kind: DataKind = "auto"
    """Where pictures come from; `auto`: CelebA where it lies under `root`, else synthetic faces."""
    root: str = "data"
    """Folder or file of the data; a relative one is in the folder that you start in."""
    attribute: str | tuple[str, ...] = "Male"
    """CelebA's attribute to classify; a list of k gives 2^k classes."""
    train: Annotated[int | None, InUnits("images")] = 160
    """Images of the train split that the clients hold; null: all."""
    valid: Annotated[int | None, InUnits("images")] = 200
    """Images of the validation split that accuracy is measured on; null: all."""
    public: Annotated[int | None, InUnits("images")] = 200
    """Images of the test split that are the attacker's own; null: all."""
    synthetic_images: Annotated[int, InUnits("images")] = 2000
    """How many synthetic faces are written where there are none."""
    synthetic_seed: int = 0
    """Fixes the synthetic faces."""
    name: str | None = field(default=None, metadata=LATER)
    """The set of torchvision.datasets, for kind `torchvision`."""
    download: bool | None = field(default=None, metadata=LATER)
    """Whether torchvision may fetch the set."""
    resize: Resize | None = field(default=None, metadata=LATER)
    """How pictures come to the network's size; null: `crop`."""
    split: SeededSplit | None = field(default=None, metadata=LATER)
    """Cuts a set that lacks splits; null: 80% train, 10% valid, 10% test by seed 0."""

    def __post_init__(self) -> None:
        for setting, kinds in _KINDS_WITH.items():
            fits = getattr(self, setting) is None or self.kind in kinds
            require(fits, self, setting, f"left out for kind: {self.kind}; it is for {', '.join(kinds)}")
        require(
            self.kind != "torchvision" or self.name is not None, self, "name", "a set of torchvision.datasets"
        )
        for name in ("train", "valid", "public"):
            value = getattr(self, name)
            require(value is None or value >= 1, self, name, "at least 1, or null for all")
        require(self.synthetic_images >= 8, self, "synthetic_images", "at least 8")


@dataclass(frozen=True, kw_only=True)
class CaptureConfig(Config):
    """Which signal is captured, at the weights of which round, starting from which client.

    `weights: undefended` captures on the trajectory without defenses, the same for all cells; `defended`
    trains with the cell's own defense, and the table says so. With `watched` above 1 the server sees the same images of
    a client in so many consecutive rounds, from `round` on; its defense draws anew in each. That needs `defended`: the
    weights between the rounds would tell what the defense hides.
    """

    signal: Signal = "gradients"
    """What is captured: one batch's gradient, one step's update, a whole local update, or a round's mean."""
    round: int = 0
    """The round whose weights are attacked, from 0."""
    client: int = 0
    """The client that the first victim comes from."""
    weights: Literal["undefended", "defended"] = "undefended"
    """Whether training up to that round went without the cell's defense or with it."""
    watched: Annotated[int, InUnits("rounds")] = field(default=1, metadata=LATER)
    """Consecutive rounds in which the server sees the same images of a client."""

    def __post_init__(self) -> None:
        require(self.round >= 0, self, "round", "at least 0")
        require(self.client >= 0, self, "client", "at least 0")
        require(self.watched >= 1, self, "watched", "at least 1")
        if self.watched > 1:
            alone = self.signal in ("gradients", "one_step_update")
            require(
                alone,
                self,
                "signal",
                "gradients or one_step_update with watched > 1: others hold other images each round",
            )
            defended = self.weights == "defended"
            require(
                defended,
                self,
                "weights",
                "defended with watched > 1: undefended ones tell what a defense hides",
            )

    @property
    def rounds(self) -> range:
        """The rounds that the server watches."""
        return range(self.round, self.round + self.watched)


@dataclass(frozen=True, kw_only=True)
class VictimsConfig(Config):
    """How many victims tune an attacker, and how many others conclusions rest on."""

    tuning: Annotated[int, InUnits("victims")] = 4
    """Victims that attackers are tuned on."""
    test: Annotated[int, InUnits("victims")] = 16
    """Other victims, which conclusions rest on."""

    def __post_init__(self) -> None:
        require(self.tuning >= 0, self, "tuning", "at least 0")
        require(self.test >= 1, self, "test", "at least 1")


_NO_USE = "left out: this attack uses none; analytic, auto, and matching with 'trained' among its priors do"

Objective = Literal["psnr", "work"]
"""What a study optimises: the mean PSNR on tuning victims, and the images that the attack differentiates twice."""

OBJECTIVES: tuple[tuple[Objective, ...], ...] = (("psnr",), ("psnr", "work"))
"""The choices of objectives that there are."""


@dataclass(frozen=True, kw_only=True)
class HalvingConfig(Config):
    """Each suggestion first attacks some victims with some of its iterations; only the better ones are run whole.

    The defaults take half the time: a quarter for the short trials, and a quarter for the whole ones (docs/studies.md).
    """

    iterations: float = 0.5
    """Share of an attack's iterations that the short trials have."""
    victims: float = 0.5
    """Share of the tuning victims that the short trials attack, rounded up."""
    keep: float = 0.25
    """Share of the suggestions that is run whole."""

    def __post_init__(self) -> None:
        for name in ("iterations", "victims"):
            require(0 < getattr(self, name) <= 1, self, name, "more than 0 and at most 1")
        require(0 < self.keep < 1, self, "keep", "more than 0 and less than 1")
        shorter = self.iterations < 1 or self.victims < 1
        require(shorter, self, "iterations", "less than 1 where the short trials attack all victims")

    def screened(self, victims: int) -> int:
        """How many of so many tuning victims the short trials attack."""
        return math.ceil(victims * self.victims - 1e-9)


@dataclass(frozen=True, kw_only=True)
class StudyConfig(Config):
    """The budget of every study, who makes its suggestions, and the lag that keeps them reproducible.

    Suggestion n is asked when exactly the results up to n - `lag` are known. A study makes `suggestions` of them,
    or as many as fit into `seconds` or `gpu_seconds` of its attacks' time, where one of these is set. `grid` tries
    every combination of choices instead and ignores `suggestions`. `prune` leaves out the other victims of a
    suggestion that is so many dB behind the best one, `halving` tries each suggestion with short trials first and runs
    only the better ones whole, `warm_start` names a results folder whose best parameters are tried first, and `storage`
    says where Optuna's copy goes: `journal` (in the results folder), the address of a database, or null for nowhere.
    `objectives` may add the attack's work to PSNR, and `within` then says which suggestion of the front is tested.
    """

    suggestions: Annotated[int, InUnits("suggestions")] = 24
    """How many suggestions every study makes."""
    seconds: Annotated[float | None, InUnits("s")] = None
    """Budget of the studies' attack time in seconds, in place of `suggestions`."""
    gpu_seconds: Annotated[float | None, InUnits("s")] = None
    """The same in GPU-seconds."""
    sampler: Literal["tpe", "random", "gp", "cmaes", "grid"] = "tpe"
    """Who makes the suggestions; an attacker may name another."""
    lag: Annotated[int, InUnits("suggestions")] = 4
    """Suggestion n is asked when exactly the results up to n minus this are known. Also: `feedback_delay`."""
    startup: Annotated[int, InUnits("suggestions")] = 10
    """Suggestions drawn at random before the sampler uses what it has seen. Also: `random_suggestions`."""
    prune: Annotated[float | None, InUnits("dB")] = None
    """DB behind the best suggestion at which the other victims are left out; null: never."""
    warm_start: str | None = None
    """A results folder whose best parameters are tried first."""
    storage: str | None = JOURNAL
    """Where Optuna's copy goes: `journal`, the address of a database, or null."""
    objectives: tuple[Objective, ...] = field(default=("psnr",), metadata=LATER)
    """What is optimised: `psnr` alone, or `psnr` and the attack's `work`."""
    within: Annotated[float | None, InUnits("dB")] = field(default=None, metadata=LATER)
    """With the objective `work`: the suggestion of least work at most so many dB behind the best one wins."""
    halving: HalvingConfig | None = field(default=None, metadata=LATER)
    """Try each suggestion with short trials first, and run only the better ones whole; null: all whole."""

    def __post_init__(self) -> None:
        require(self.suggestions >= 1, self, "suggestions", "at least 1")
        for name in ("seconds", "gpu_seconds"):
            value = getattr(self, name)
            require(
                value is None or value > 0, self, name, "more than 0, or null for a budget of suggestions"
            )
        require(self.seconds is None or self.gpu_seconds is None, self, "seconds", "null beside gpu_seconds")
        require(self.lag >= 1, self, "lag", "at least 1")
        require(self.startup >= 0, self, "startup", "at least 0")
        require(self.prune is None or self.prune >= 0, self, "prune", "at least 0 dB, or null")
        if self.sampler == "grid":
            for name in ("seconds", "gpu_seconds", "warm_start"):
                require(getattr(self, name) is None, self, name, "null with a grid, which tries everything")
        if self.storage not in (None, JOURNAL):
            check_address(self.storage)
        require(self.objectives in OBJECTIVES, self, "objectives", "[psnr] or [psnr, work]")
        require(self.within is None or self.within >= 0, self, "within", "at least 0 dB, or null")
        given = (self.within is not None) == self.weighs_work
        require(given, self, "within", "given with the objectives [psnr, work], and null with [psnr]")
        if self.weighs_work:
            fits = self.sampler in ("tpe", "random", "grid")
            require(fits, self, "sampler", "tpe, random or grid with the objectives [psnr, work]")
            require(self.prune is None, self, "prune", "null with the objectives [psnr, work]")
            require(self.halving is None, self, "halving", "null with the objectives [psnr, work]")
        require(self.prune is None or self.halving is None, self, "prune", "null beside halving")

    @property
    def weighs_work(self) -> bool:
        """Whether work is an objective beside PSNR."""
        return "work" in self.objectives

    @property
    def time(self) -> float | None:
        """The budget of time, in seconds or GPU-seconds; None where suggestions are counted."""
        return self.seconds if self.seconds is not None else self.gpu_seconds


@dataclass(frozen=True, kw_only=True)
class FamilyConfig(Config):
    """One attack of a search over families, with what is searched of it, by dotted path."""

    attack: AnyAttack = field(default_factory=Matching)
    """The attack of this family."""
    search: dict[str, Parameter] = field(default_factory=dict)
    """What is searched of it: ranges by dotted path."""


@dataclass(frozen=True, kw_only=True)
class PriorConfig(PatchTraining):
    """A prior of images, which an attacker trains on public pictures before its attacks: a mixture over patches.

    Pictures are the public ones of the cell's data, or with `data` those of other data: the same attack with a prior of
    another domain is the control of what the prior is worth. A picture that a client of the cell holds is left out.
    """

    data: DataConfig | None = None
    """Other data, whose first `public` pictures of the test split are learned from; null: the cell's own."""


@dataclass(frozen=True, kw_only=True)
class AttackerConfig(Config):
    """An attack and which of its parameters Optuna searches, by dotted path; an empty search runs it as it is.

    With `families` Optuna chooses one of them first and then that family's parameters alone; they take the place
    of `attack` and `search`. `uses_facts: false` makes an attacker that ignores what the threat model lets it know of
    the defense: the generic one beside the adaptive. With `prior` it trains a prior of images first.
    """

    name: str = "generic"
    """The attacker's name in tables."""
    attack: AnyAttack = field(default_factory=Matching)
    """The attack, by name or with its settings."""
    search: dict[str, Parameter] = field(default_factory=dict)
    """What is searched of it: ranges by dotted path; empty: it runs as it is."""
    families: dict[str, FamilyConfig] = field(default_factory=dict)
    """Several attacks by name, of which each suggestion chooses one. Also: `algorithms`."""
    sampler: Literal["tpe", "random", "gp", "cmaes"] | None = field(default=None, metadata=LATER)
    """Who makes this attacker's suggestions; null: the study's `sampler`."""
    uses_facts: bool = True
    """Whether it uses what the threat model lets it know of the defense. Also: `adaptive`."""
    prior: PriorConfig | None = field(default=None, metadata=LATER)
    """A prior of images that it trains on public pictures first; null: none. `{}` for the default one."""

    def __post_init__(self) -> None:
        alone = not self.families or (self.attack == Matching() and not self.search)
        require(alone, self, "families", "without 'attack' and 'search' beside it: each family has its own")
        searched = self.sampler is None or self.searches
        require(searched, self, "sampler", "left out where nothing is searched")
        attacks = [family.attack for family in self.families.values()] or [self.attack]
        uses = {attack.prior_use for attack in attacks}
        needed, unused = "needed" in uses, uses == {"unused"}
        require(
            self.prior is not None or not needed,
            self,
            "prior",
            "given with the prior 'trained', such as prior: {}",
        )
        require(self.prior is None or not unused, self, "prior", _NO_USE)
        simple = all(name and all(ch.isalnum() or ch in "_-" for ch in name) for name in self.families)
        require(simple, self, "families", "named with letters, digits, _ and -")

    @property
    def space(self) -> Space:
        """What a study of this attacker searches."""
        return Space(self.search, {name: family.search for name, family in self.families.items()})

    def study(self, common: StudyConfig) -> StudyConfig:
        """The settings of this attacker's studies: the common ones, with its own sampler."""
        if self.sampler is None:
            return common
        if common.sampler == "grid":
            raise InputError(
                f"attackers.{self.name}.sampler = {self.sampler!r} does not go with study.sampler = 'grid', which "
                "tries everything; leave one out."
            )
        return replace(common, sampler=self.sampler)

    @property
    def searches(self) -> bool:
        """Whether there is anything to search."""
        return bool(self.search or self.families)


@dataclass(frozen=True, kw_only=True)
class UtilityConfig(Config):
    """The separate training run that gives a cell's accuracy: its own images, local batch size and rate.

    The other settings are the federation's, its planned rounds above all, so that a privacy budget means the
    same noise. At least 1,000 training images, or the figure would be noise. `seeds` is how many trainings there are,
    each from a seed of its own: the accuracy is their mean.
    """

    train: Annotated[int, InUnits("images")] = 1000
    """Training images."""
    batch_size: Annotated[int, InUnits("images")] = 10
    """Images of a local batch."""
    lr: float | None = None
    """Learning rate; null: the federation's."""
    seeds: Annotated[int, InUnits("seeds")] = 1
    """Trainings, each from a seed of its own."""

    def __post_init__(self) -> None:
        require(self.train >= 1000, self, "train", "at least 1000")
        require(self.seeds >= 1, self, "seeds", "at least 1")
        require(self.batch_size >= 1, self, "batch_size", "at least 1")
        require(self.lr is None or self.lr > 0, self, "lr", "more than 0")


@dataclass(frozen=True, kw_only=True)
class ExecutionConfig(Config):
    """How trials run: device, threads of one trial, processes, and what is kept.

    `workers: null` fills the cluster. `threads` changes rounding and so is part of every trial's identity. On Ray a
    trial takes `threads` CPUs and `gpus_per_trial` GPUs: 0.25 lets four trials share one. null means a whole one
    where `device` is a GPU (a Mac's counts as one), and none on the CPU. So many victims of one suggestion as
    `victims_together` says are attacked in one program: a GPU is filled, and a core has less overhead, but figures are
    the same up to rounding alone, which matching amplifies, and a resumed sweep may put other victims together.
    `allow_slow` starts sums under Paillier that
    will take more than ten minutes; without it they are refused with the estimate.
    """

    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `mps`."""
    threads: Annotated[int, InUnits("threads")] = 1
    """CPU threads of one trial; part of its identity."""
    workers: Annotated[int | None, InUnits("processes")] = None
    """Processes at a time; null: as many as fit."""
    gpus_per_trial: Annotated[float | None, InUnits("GPUs")] = None
    """GPUs that a trial takes, a share such as 0.25 or a whole number; null: one where there is one."""
    victims_together: Annotated[int, InUnits("victims")] = field(default=1, metadata=LATER)
    """Victims of one suggestion that matching attacks in one program; 1: each by itself."""
    precision: Precision = field(default="float32", metadata=LATER)
    """How attacks multiply: in float32; as tf32, on CUDA alone; as bf16, on the CPU and CUDA. Both round. Part of a
    trial's identity."""
    programs: Programs = field(default="operations", metadata=LATER)
    """How matching computes losses and slopes: operation by operation; as CUDA graphs, which start at once; compiled,
    which takes minutes and saves a third and more of each iteration. Part of a trial's identity."""
    controls: bool = True
    """Whether the same attack also runs on noise."""
    lpips: bool = False
    """Whether LPIPS is measured, where its weights are at hand."""
    images: Literal["test", "all", "none"] = "test"
    """Which trials' pictures are kept."""
    keep_captures: bool = True
    """Whether captures stay on disk in the end."""
    allow_slow: bool = False
    """Whether sums that take more than ten minutes may start."""

    def __post_init__(self) -> None:
        require(self.threads >= 1, self, "threads", "at least 1")
        require(self.workers is None or self.workers >= 1, self, "workers", "at least 1, or null")
        require(self.victims_together >= 1, self, "victims_together", "at least 1")
        followed = self.programs != "compiled" or self.precision != "bf16"
        require(
            followed,
            self,
            "programs",
            "operations or graphs where precision is bf16, which kernels do not follow",
        )
        share = self.gpus_per_trial
        fits = share is None or 0 <= share <= 1 or share.is_integer()
        require(fits, self, "gpus_per_trial", "from 0 to 1, or a whole number, or null")

    @property
    def gpus(self) -> float:
        """How many GPUs a trial takes on Ray, once `device` is definite."""
        if self.gpus_per_trial is not None:
            return self.gpus_per_trial
        return 0.0 if self.device == "cpu" else 1.0


def _check_chain(defenses: tuple[AnyDefense, ...]) -> None:
    """Raise `InputError` for defenses that do not go together.

    A config is also read from results that somebody else may have sent, so no code that it holds is run for this: with
    own classes the check is that of `orchestrator.config.parse.load_sweep`, and of whoever makes the chain.
    """
    if not any(isinstance(defense, OwnDefense) for defense in defenses):
        Chain(defenses=defenses)


def _check_order(paths: tuple[str, ...]) -> None:
    """Refuse a group behind one of its own settings, which it would replace."""
    for i, path in enumerate(paths):
        lost = next((other for other in paths[:i] if other.startswith(f"{path}.")), None)
        if lost is not None:
            raise InputError(
                f"differs: {path!r} stands behind {lost!r} and would replace its value; put {path!r} first, or name "
                "its settings one by one."
            )


@dataclass(frozen=True, kw_only=True)
class CellConfig(Config):
    """One row of the comparison: a name, a defense chain, and openly whatever else differs from the rest.

    `differs` maps dotted paths of the sweep file (`federation.rounds`, `capture.signal`, ...) to this cell's
    own values. The table marks such cells: they are compared with care.
    """

    name: str
    """The cell's name in tables."""
    defense: tuple[AnyDefense, ...] = ()
    """The chain of defenses, in their order; empty: none."""
    differs: dict[str, Json] = field(default_factory=dict)
    """Settings that are this cell's own, by dotted path."""

    def __post_init__(self) -> None:
        _check_chain(self.defense)
        for path in self.differs:
            require(path.split(".")[0] in GROUPS, self, "differs", f"paths into {', '.join(GROUPS)}")
        _check_order(tuple(self.differs))


@dataclass(frozen=True, kw_only=True)
class ThresholdConfig(Config):
    """A search for the strength at which a defense begins to work.

    Its cells have `defense` and `differs` with each strength put in. After the grid, at most `refine` times, cells are
    added halfway inside the gaps in which an attacker's curve crosses a criterion, for every attacker and criterion,
    until the gaps widen its interval less than the choice of victims does.
    """

    name: str
    """The threshold's name, which its cells' names begin with."""
    defense: tuple[AnyDefense, ...] = ()
    """The chain of defenses, one of whose numbers is the strength."""
    differs: dict[str, Json] = field(default_factory=dict)
    """Settings that are these cells' own, by dotted path."""
    strength: Strength
    """The number that goes from weak to strong."""
    refine: int = 5
    """How often strengths are added where a curve crosses."""

    def __post_init__(self) -> None:
        require(_plain(self.name), self, "name", "of letters, digits, . _ and -")
        require(self.refine >= 0, self, "refine", "at least 0")
        _check_chain(self.defense)

    def cell_name(self, value: float) -> str:
        """The name of the cell of one strength."""
        return f"{self.name}_{value:g}".replace("+", "")


@dataclass(frozen=True, kw_only=True)
class SweepConfig(Config):
    """A whole experiment. Everything but `cells`, `thresholds` and `attackers` is common to all cells.

    With `seeds` the whole of it is repeated so often, at `seed`, `seed` + 1 and so on: initial weights, the clients'
    shares of the images, who takes part, noise, tuning.
    """

    name: str
    """The sweep's name, and that of its results folder."""
    seed: int = 42
    """Fixes everything random."""
    seeds: Annotated[int, InUnits("seeds")] = field(default=1, metadata=LATER)
    """How many seeds everything is repeated at, `seed` first."""
    data: DataConfig = field(default_factory=DataConfig)
    """Where pictures come from."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The clients' network."""
    federation: FederationConfig = field(default_factory=FederationConfig)
    """Clients, rounds and local training."""
    capture: CaptureConfig = field(default_factory=CaptureConfig)
    """What is captured, and when."""
    threat: ThreatModel = field(default_factory=ThreatModel)
    """What the attacker sees and knows."""
    victims: VictimsConfig = field(default_factory=VictimsConfig)
    """How many victims there are."""
    study: StudyConfig = field(default_factory=StudyConfig)
    """How attackers are tuned."""
    utility: UtilityConfig | None = None
    """The training that measures accuracy; null: none."""
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)
    """How trials run."""
    cells: tuple[CellConfig, ...] = (CellConfig(name="none"),)
    """The rows of the comparison."""
    thresholds: tuple[ThresholdConfig, ...] = ()
    """Searches for the strength at which a defense begins to work."""
    attackers: tuple[AttackerConfig, ...] = field(default_factory=lambda: (AttackerConfig(),))
    """Who attacks every cell."""

    def __post_init__(self) -> None:
        require(_plain(self.name), self, "name", "of letters, digits, . _ and -, not beginning with .")
        require(1 <= self.seeds <= MOST_SEEDS, self, "seeds", f"from 1 to {MOST_SEEDS}")
        for field_name in ("cells", "attackers"):
            names = [entry.name for entry in getattr(self, field_name)]
            require(bool(names), self, field_name, "at least one")
            _check_names(field_name, names)
        for attacker in self.attackers:
            attacker.study(self.study)
        tuned = any(attacker.searches for attacker in self.attackers)
        require(
            not tuned or self.victims.tuning >= 1, self, "victims", "with tuning >= 1 where a search is given"
        )

    @property
    def cell(self) -> CellConfig:
        """The only cell of one cell's settings (`cell_settings`)."""
        (only,) = self.cells
        return only

    @property
    def replicates(self) -> range:
        """The seeds at which everything is run."""
        return range(self.seed, self.seed + self.seeds)

    def matching_cells(self, patterns: Sequence[str]) -> list[CellConfig]:
        """The cells whose name matches a shell pattern; raises `InputError` for one that matches none."""
        found: set[str] = set()
        for pattern in patterns:
            matching = {cell.name for cell in self.cells if fnmatch.fnmatchcase(cell.name, pattern)}
            if not matching:
                raise InputError(
                    f"--cells {pattern!r} matches none of {', '.join(cell.name for cell in self.cells)}."
                )
            found |= matching
        return [cell for cell in self.cells if cell.name in found]


def _check_names(what: str, names: Sequence[str]) -> None:
    """Raise `InputError` for a name that comes twice, and for one that is none."""
    for name, count in Counter(names).items():
        if count > 1:
            raise InputError(
                f"{what}: {count} entries have the name {name!r}; must be entries with different names."
            )
        if not _plain(name):
            raise InputError(
                f"{what}: {name!r}: must be names of letters, digits, . _ and -, not beginning with . and of at "
                f"most {LONGEST_NAME} bytes."
            )


def _plain(name: str) -> bool:
    return len(name.encode()) <= LONGEST_NAME and plain_name(name)
