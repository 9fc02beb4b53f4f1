"""Federated learning: clients, rounds, aggregation, training, and where clients are simulated."""

from __future__ import annotations

from fl_core.federation.accuracy import EVALUATION_BATCH, count_correct
from fl_core.federation.aggregation import Change, FedAvg, FixedMean, Reduction, mean_change
from fl_core.federation.client import (
    Batch,
    GradientRule,
    LocalTraining,
    Trained,
    batch_gradient,
    difference,
    gradient_of,
    loss_gradient,
    train_locally,
)
from fl_core.federation.common import Common
from fl_core.federation.hooks import ClientDefense, ClientMemory, SecureSum
from fl_core.federation.rounds import Chunk, Federation, FederationConfig, LocalBatch
from fl_core.federation.simulator import ClientWork, InProcess, Reduced, Simulator
from fl_core.federation.training import train

__all__ = [
    "Batch",
    "batch_gradient",
    "Change",
    "Chunk",
    "ClientDefense",
    "ClientMemory",
    "ClientWork",
    "Common",
    "count_correct",
    "difference",
    "EVALUATION_BATCH",
    "FedAvg",
    "Federation",
    "FederationConfig",
    "FixedMean",
    "gradient_of",
    "GradientRule",
    "InProcess",
    "LocalBatch",
    "LocalTraining",
    "loss_gradient",
    "mean_change",
    "Reduced",
    "Reduction",
    "SecureSum",
    "Simulator",
    "train",
    "train_locally",
    "Trained",
]
