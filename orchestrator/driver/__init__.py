"""The driver of a sweep, its refinement of thresholds, and its plan."""

from __future__ import annotations

from orchestrator.driver.merge import merge_folders
from orchestrator.driver.plan import check_plan, plan_table
from orchestrator.driver.refine import run_refined
from orchestrator.driver.sweep import resolve, run_sweep

__all__ = [
    "check_plan",
    "merge_folders",
    "plan_table",
    "resolve",
    "run_refined",
    "run_sweep",
]
