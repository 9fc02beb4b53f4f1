"""What an adversary sees: facts, threat models, captured records, observations."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "captures": [
            "Victim",
            "accompanied",
            "capture",
            "image_indices",
            "smallest_batch",
            "victims",
            "watch",
        ],
        "facts": [
            "Augmented",
            "Clip",
            "ExampleClip",
            "Fact",
            "HiddenMixture",
            "MeanNoise",
            "Mixture",
            "Noise",
            "PrunedRepresentation",
            "Quantiser",
            "RandomCode",
            "Sparsity",
            "StepNoise",
        ],
        "model": ["ThreatModel", "View"],
        "observation": [
            "NotObservable",
            "Observation",
            "TrainedPrior",
            "observe",
            "published_noise_db",
            "truth_behind",
        ],
        "record": ["RoundRecord"],
    },
)
