"""A real Ray on this machine that several tests use: starting one takes five CPU-seconds or more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ray.cluster_utils import Cluster


@contextmanager
def ray_cluster(cpus: int) -> Iterator[str]:
    """The address of a cluster of one node with so many CPUs, which ends with the context."""
    made = Cluster()
    try:
        made.add_node(num_cpus=cpus, include_dashboard=False)
        yield made.address
    finally:
        made.shutdown()
