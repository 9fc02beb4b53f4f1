"""The names for one signal: what attacks, defends and simulates it."""

from attack_core.base.certificate import Certificate as Certificate
from attack_core.base.types import AttackFailed as AttackFailed
from fl_core.base.errors import InputError as InputError
from fl_core.federation.client import LocalTraining as LocalTraining
from orchestrator.library.images import ImageSpec as ImageSpec
from orchestrator.library.invert import Found as Found
from orchestrator.library.invert import invert as invert
from orchestrator.library.known import Known as Known
from orchestrator.library.simulate import defend as defend
from orchestrator.library.simulate import observe as observe
from orchestrator.library.updates import Update as Update
