"""Fully connected layers in closed form: the head, layer inputs, batch separation, the order of local steps."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "head": ["Head", "Prefix", "observed_head", "solvable_head"],
        "inversion": ["completed_input", "input_estimate"],
        "layer_inputs": ["LayerInputs", "magnitude"],
        "spear": ["Inseparable"],
        "step_order": ["Order", "even_states", "simulate"],
    },
)
