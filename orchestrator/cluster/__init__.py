"""Beyond this machine: Ray jobs and Slurm scripts."""

from __future__ import annotations

from orchestrator.cluster.slurm import SlurmJob, render
from orchestrator.cluster.submit import Jobs, JobState, find_token

__all__ = [
    "find_token",
    "Jobs",
    "JobState",
    "render",
    "SlurmJob",
]
