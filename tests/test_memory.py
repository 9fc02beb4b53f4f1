"""Memory that runs out: a real allocator that refuses, one smaller try, then a failed row."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from attack_core.auto import Auto
from attack_core.families import AnyAttack
from attack_core.matching import Matching
from fl_core.celeba import FaceDataset
from orchestrator.trial import out_of_memory, packings
from tests.small import comparable, sweep, tree
from tests.test_matching import attacked, observed
