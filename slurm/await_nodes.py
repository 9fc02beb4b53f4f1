"""Wait until so many nodes of a Ray cluster are alive: `await_nodes.py HOST:PORT NODES SECONDS`.

Says how many came, and ends with exit code 1 only where not even the cluster answers.
"""

from __future__ import annotations

import sys
import time

import ray


def main(address: str, wanted: int, seconds: float) -> None:
    """Connect, count, and count again until all are there or the time is over."""
    began = time.monotonic()
    while True:
        try:
            ray.init(address=address, log_to_driver=False, logging_level="error")
            break
        except (ConnectionError, RuntimeError) as error:
            if time.monotonic() - began > seconds:
                sys.exit(f"no answer from {address}: {str(error).splitlines()[0]}")
            time.sleep(2.0)
    alive = 0
    while alive < wanted and time.monotonic() - began < seconds:
        time.sleep(0.5 if alive else 0)
        alive = sum(node["Alive"] for node in ray.nodes())
    sys.stdout.write(f"{alive} of {wanted} nodes after {time.monotonic() - began:.0f} s\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
