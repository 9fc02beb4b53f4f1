"""The analytic attack on stored observations, in a process of its own: this checkout's, or an older one's.

python benchmarks/engine_case.py FOLDER    # with the checkout on PYTHONPATH

FOLDER holds observations as `write` leaves them. Each line of the input is a request as JSON, {"case", "evaluations"},
each line of the output answers it: {"cpu_s", "psnr", "method"}. Needs nothing but names that old checkouts have too.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


def write(path: Path, facts: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """One case: `facts` about it and its tensors, named `state/NAME`, `signal/NAME`, `truth` and `public_mean`."""
    arrays = {name: tensor.detach().numpy() for name, tensor in tensors.items()}
    np.savez(path, facts=np.array(json.dumps(facts)), **arrays)  # type: ignore[arg-type]


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What `write` wrote."""
    with np.load(path, allow_pickle=False) as stored:
        tensors = {name: torch.from_numpy(stored[name]) for name in stored.files if name != "facts"}
        return json.loads(str(stored["facts"])), tensors


class Attack:
    """The attack of whatever checkout is on the path."""

    def __init__(self) -> None:
        try:
            from attack_core.attacks.analytic import Analytic
            from attack_core.inversion.continuation import Continuation
            from attack_core.metrics.metrics import assign, psnr
            from fl_core.base.rng import generator
            from fl_core.base.types import ModelState
            from fl_core.models.build import build_model
            from fl_core.models.config import ModelConfig
            from fl_core.threat.observation import Observation
        except ModuleNotFoundError:  # Before the packages had rooms.
            from attack_core.analytic import Analytic
            from attack_core.descent import Descent as Continuation
            from fl_core.rng import generator
            from fl_core.types import ModelState

            from attack_core.metrics import assign, psnr
            from fl_core.models import ModelConfig, build_model
            from fl_core.threat import Observation
        self._analytic, self._continuation, self._observation = Analytic, Continuation, Observation
        self._state, self._network, self._build = ModelState, ModelConfig, build_model
        self._generator, self._assign, self._psnr = generator, assign, psnr

    def run(self, path: Path, evaluations: int) -> dict[str, Any]:
        """Attack one case; each true image's PSNR in dB, 0 where no answer is for it."""
        facts, tensors = read(path)
        parts = {
            kind: {n.partition("/")[2]: t for n, t in tensors.items() if n.startswith(f"{kind}/")}
            for kind in ("state", "signal")
        }
        network, count = self._network(**facts["network"]), len(tensors["truth"])
        observation = self._observation(
            signal="gradients",
            model=network,
            state=self._state(parameters=parts["state"]),
            tensors=parts["signal"],
            examples=count,
            clients=1,
            batch_size=count,
            steps=1,
            lr=facts["lr"],
            momentum=0.0,
            public_mean=tensors.get("public_mean"),
        )
        names = {each.name for each in dataclasses.fields(self._analytic)}
        plain = {"certify": False} if "certify" in names else {}  # Older checkouts have no certificates.
        attack = self._analytic(inversion=self._continuation(evaluations=evaluations), **plain)
        start = time.process_time()
        found = attack(observation, self._build(network), self._generator("engine"))
        spent = time.process_time() - start
        truth, quality = tensors["truth"], [0.0] * count
        for i, j in enumerate(self._assign(found.images, truth)):
            if j is not None:
                quality[i] = float(self._psnr(found.images[j : j + 1], truth[i : i + 1])[0])
        return {"cpu_s": spent, "psnr": quality, "method": found.method}


def main() -> int:
    """Answer requests until the input ends."""
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    attack = Attack()
    for text in sys.stdin:
        request = json.loads(text)
        answer = attack.run(folder / f"{request['case']}.npz", request["evaluations"])
        print(json.dumps(answer), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
