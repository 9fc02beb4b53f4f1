"""A copy of the studies in Optuna's own storage, for its dashboard. Nothing is ever decided by it.

Suggestions are appended when they have been told, in order and each in one write. So a study in the mirror is
always the beginning of the study in the rows, whatever was killed when, and the next run appends what is missing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import optuna
from optuna.exceptions import OptunaError, StorageInternalError
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from fl_core.base.errors import InputError
from orchestrator.config.address import PASSWORD
from orchestrator.config.space import Params
from orchestrator.config.sweep import JOURNAL
from orchestrator.io.retries import patiently
from orchestrator.study.cell_study import CellStudy
from orchestrator.study.search import directions

T = TypeVar("T")

JOURNAL_FILE = "optuna.journal"

_AWAY = (StorageInternalError, SQLAlchemyError, OSError)
_GARBLED = (ValueError, LookupError, TypeError, AttributeError, AssertionError, RuntimeError, OptunaError)
"""What Optuna's readers meet in content that is not their own."""
_STATES = {"ok": TrialState.COMPLETE, "failed": TrialState.FAIL, "pruned": TrialState.PRUNED}


class Mirror:
    """Appends to the studies `SWEEP/CELL/ATTACKER` of one storage; `storage` is as in `StudyConfig`.

    A storage that does not answer is tried three times. Then the mirror says so through `say` and stops, and the
    sweep goes on without it.
    """

    def __init__(self, storage: str | None, folder: Path, *, sweep: str, say: Callable[[str], None]) -> None:
        self._address, self._folder, self._sweep, self._say = storage, folder, sweep, say
        self._storage: JournalStorage | RDBStorage | None = None
        self._studies: dict[str, optuna.Study] = {}
        self._written: dict[str, int] = {}
        self._off = storage is None

    def begin(self, study: CellStudy, recorded: Mapping[int, Params]) -> None:
        """Find what the mirror has of a study already.

        Raises `InputError` where that is not the beginning of the `recorded` suggestions, and for a storage that
        can never work: an unknown kind of database, or one whose driver is not installed.
        """
        if self._off or study.study is None:
            return
        for trial in self._attempt(lambda: self._open(study).get_trials(deepcopy=False)) or []:
            if recorded.get(trial.number) == trial.params:
                continue
            if self._address == JOURNAL:
                self._stop("holds another study; remove it to have it written anew")
                return
            raise InputError(
                f"study.storage: {self._place} already holds a study {self._name(study)!r}, and it is not the "
                "one of this results folder; give the sweep another name, or remove that study."
            )

    def update(self, study: CellStudy) -> None:
        """Append what has been told since the last time."""
        while not self._off and study.study is not None and self._written[study.name] < study.study.told:
            number = self._written[study.name]
            self._attempt(partial(self._append, study, number, _frozen(study, number)))

    def close(self) -> None:
        """Give back the connections."""
        if isinstance(self._storage, RDBStorage):
            self._storage.remove_session()
            self._storage.engine.dispose()
        self._storage = None
        self._studies.clear()

    @property
    def _place(self) -> str:
        return str(self._folder / JOURNAL_FILE) if self._address == JOURNAL else str(self._address)

    def _name(self, study: CellStudy) -> str:
        return f"{self._sweep}/{study.name}"

    def _append(self, study: CellStudy, number: int, trial: FrozenTrial) -> None:
        """Append trial `number`, unless a try whose answer was lost has done it already."""
        opened = self._open(study)
        if self._written[study.name] == number:
            opened.add_trial(trial)
            self._written[study.name] += 1

    def _open(self, study: CellStudy) -> optuna.Study:
        """The mirror's study. When it is opened its trials are counted: a write may arrive without its answer."""
        if study.name not in self._studies:
            if self._storage is None:
                self._storage = self._connect()
            name = self._name(study)
            try:
                opened = optuna.load_study(study_name=name, storage=self._storage)
            except KeyError:
                wanted = directions(study.cell.settings.study)
                opened = optuna.create_study(study_name=name, storage=self._storage, directions=wanted)
            self._written[study.name] = len(opened.get_trials(deepcopy=False))
            self._studies[study.name] = opened
        return self._studies[study.name]

    def _connect(self) -> JournalStorage | RDBStorage:
        if self._address == JOURNAL:
            path = self._folder / JOURNAL_FILE
            _cut_torn_line(path)
            # Only this driver writes here: a lock that is older than this was left by one that was killed.
            lock = JournalFileOpenLock(str(path), grace_period=5)
            return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
        address, password = str(self._address), os.environ.get(PASSWORD)
        options: dict[str, Any] = {}
        if address.startswith(("postgresql", "mysql", "mariadb")):
            options["connect_timeout"] = 5
        if password is not None and not address.startswith("sqlite"):
            options["password"] = password  # Beside the address: no message can repeat it.
        try:
            return RDBStorage(address, engine_kwargs={"connect_args": options, "pool_pre_ping": True})
        except (ImportError, ArgumentError, NoSuchModuleError) as error:
            raise InputError(
                f"study.storage = {address!r}: {_line(error)} It must be an address that SQLAlchemy knows, such as "
                "sqlite:///studies.db or postgresql+psycopg://user@host/name, with its driver installed."
            ) from error

    def _attempt(self, action: Callable[[], T]) -> T | None:
        """Do something with the storage; None where it fails for good."""
        try:
            return patiently(
                self._place, action, lambda error: isinstance(error, _AWAY), tries=3, between=self.close
            )
        except InputError:
            raise
        except _AWAY as error:
            self._stop(f"cannot be written ({_line(error)})")
        except _GARBLED as error:
            self._stop(f"holds something else ({_line(error)}); remove it to have it written anew")
        return None

    def _stop(self, why: str) -> None:
        """Go on without the mirror, and say so."""
        self._off = True
        self.close()
        self._say(
            f"Optuna's copy of the studies stops here: {self._place} {why}. The sweep goes on and its results are "
            "complete; run it again later to fill in the copy."
        )


def _frozen(study: CellStudy, number: int) -> FrozenTrial:
    """A suggestion that has been told, as Optuna keeps it; a victim's value is the intermediate value at its place."""
    if study.study is None:
        raise ValueError(f"{study.name} has no study.")
    outcome = study.study.outcome(number)
    return create_trial(
        state=_STATES[outcome.state],
        values=study.study.values(number),
        params=study.study.params(number),
        distributions=study.study.distributions(number),
        intermediate_values={i: value for i, value in enumerate(outcome.values) if value is not None},
        user_attrs={"trial_ids": list(study.trial_ids(number))},
    )


def _cut_torn_line(path: Path) -> None:
    """Remove what a write that was cut short left at the end: the next line would be appended to it."""
    if path.is_file():
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with path.open("r+b") as file:
                file.truncate(whole)


def _line(error: BaseException | None) -> str:
    """The first line of what went wrong, with its cause where Optuna wrapped it."""
    inner = error.__cause__ or error if isinstance(error, StorageInternalError) else error
    return f"{type(inner).__name__}: {(str(inner).splitlines() or [''])[0]}"
