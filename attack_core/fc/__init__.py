"""Fully connected layers in closed form: the head, layer inputs, batch separation, the order of local steps."""

from __future__ import annotations

from attack_core.fc.head import Prefix, Tail, observed_tail, solvable_tail
from attack_core.fc.inversion import Estimate, completed_input, input_estimate
from attack_core.fc.layer_inputs import LayerInputs, Reading, magnitude
from attack_core.fc.spear import Inseparable
from attack_core.fc.step_order import Order, even_states, simulate

__all__ = [
    "completed_input",
    "Estimate",
    "even_states",
    "input_estimate",
    "Inseparable",
    "LayerInputs",
    "magnitude",
    "observed_tail",
    "Order",
    "Prefix",
    "Reading",
    "simulate",
    "solvable_tail",
    "Tail",
]
