"""Federated learning: clients, rounds, aggregation, training, and where clients are simulated."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "accuracy": ["EVALUATION_BATCH", "count_correct"],
        "aggregation": ["Change", "FedAvg", "FixedMean", "Reduction", "mean_change"],
        "client": [
            "Batch",
            "GradientRule",
            "LocalTraining",
            "Trained",
            "batch_gradient",
            "difference",
            "gradient_of",
            "loss_gradient",
            "train_locally",
        ],
        "common": ["Common"],
        "federation": ["Chunk", "Federation", "LocalBatch"],
        "hooks": ["ClientDefense", "ClientState", "SecureSum"],
        "rounds": ["FederationConfig"],
        "simulator": ["ClientWork", "InProcess", "Reduced", "Simulator"],
        "training": ["train"],
    },
)
