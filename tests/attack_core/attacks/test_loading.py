"""What attacks compute with is loaded before they are timed."""

from __future__ import annotations

import subprocess
import sys

from tests.support.paths import ROOT

PROBE = """
import sys
from attack_core.attacks.loading import load
load()
from attack_core.attacks.auto import Auto
from attack_core.matching.matching import Matching
from fl_core.base.rng import generator
from fl_core.models.build import build_model
from fl_core.models.config import ModelConfig
from tests.support.batches import batch_of

model = ModelConfig(kind="mlp", image_size=8, classes=10, widths=(384, 96))
observation, *_ = batch_of(1, model)
before = set(sys.modules)
for attack in (Matching(iterations=2), Matching(iterations=2, optimizer="lbfgs", labels="optimize"), Auto()):
    attack(observation, build_model(model), generator("attack"))
print(sorted(set(sys.modules) - before))
"""


def test_no_attack_imports_a_module_while_it_runs() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROBE], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
