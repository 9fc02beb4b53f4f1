"""Consent to slow encryption: a sweep says how long it would take before it begins, and needs a yes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from defenses.he.cost import estimate, local_cores
from defenses.he.encryption import Paillier
from fl_core.models.finetuning.trainable import without_frozen
from orchestrator.trial.cell import Cell


def require_consent(cells: Sequence[Cell], *, allow_slow: bool) -> None:
    """Raise `InputError` for a cell whose Paillier sums would take more than ten minutes, unless `allow_slow`.

    Time and bytes are extrapolated from a real block of the cell's own key size; counted are a sum for each victim and,
    with a utility run, one for each round. CKKS is hundreds of times faster and not asked about.
    """
    for cell in cells:
        scheme = cell.chain.summing
        if not isinstance(scheme, Paillier) or allow_slow:
            continue
        federation, weights = cell.settings.federation, cell.source.weights.state
        exchange = scheme.exchange(range(federation.per_round))
        changing = without_frozen(cell.source.federation.network, weights.buffers)
        parameters, buffers = (
            sum(tensor.numel() for tensor in each.values()) for each in (weights.parameters, changing)
        )
        values = scheme.protected_numbers(parameters, buffers)
        sums = len(cell.victims) + federation.rounds * len(cell.utility())
        one = estimate(exchange, values, clients=federation.per_round, workers=local_cores())
        dataclasses.replace(one, seconds=one.seconds * sums).require_consent(allow_slow=False)
