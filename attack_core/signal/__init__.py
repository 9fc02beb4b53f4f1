"""What a signal says before any search: which numbers are known how well, labels, starting images."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "inits": ["Init", "initial_images"],
        "labels": ["LabelStrategy", "resolve_labels"],
        "signal_model": [
            "cut_columns",
            "deviations",
            "is_sparse",
            "knows_errors",
            "largest_withheld",
            "layer_numbers",
            "masked",
            "matched_numbers",
            "mixes_labels",
            "precisions",
            "rounds_fairly",
            "sees_a_part",
            "sends_signs",
            "sent_numbers",
            "signal_energy",
            "vib_of_images",
            "withholds",
        ],
    },
)
