"""What the variables of the original's scripts stand for in a sweep file."""

from __future__ import annotations

import json
from dataclasses import dataclass

from fl_core.base.errors import InputError
from orchestrator.suites.catalog import Suite


@dataclass(frozen=True, kw_only=True)
class Variables:
    """The variables that are set, under their names in small letters; None for one that is not.

    `data_subset` counts images in all, of which a fifth is for validation. `target_client` is another name of
    `capture_client`. `num_attack_clients` is for suites that attack several clients: the first so many.
    """

    device: str | None = None
    seed: int | None = None
    data_subset: int | None = None
    num_clients: int | None = None
    num_attack_clients: int | None = None
    capture_client: int | None = None
    target_client: int | None = None

    def overrides(self, suite: Suite) -> list[str]:
        """The `key=value` settings of a sweep file that the variables ask for.

        Raises `InputError` for too few images, for no clients, and for two different clients.
        """
        found = [
            f"{key}={value}"
            for key, value in (
                ("execution.device", self.device),
                ("seed", self.seed),
                ("federation.clients", self.num_clients),
            )
            if value is not None
        ]
        if self.data_subset is not None:
            if self.data_subset < 5:
                raise InputError(
                    f"DATA_SUBSET = {self.data_subset}: must be at least 5, a fifth is for validation."
                )
            valid = self.data_subset // 5
            found += [f"data.train={self.data_subset - valid}", f"data.valid={valid}"]
        client = self._client()
        if suite.clients is None:
            return found if client is None else [*found, f"capture.client={client}"]
        if self.num_attack_clients is not None:
            found.append(_clients_axis(suite.clients, self.num_attack_clients))
        return found

    def unused(self, suite: Suite) -> list[str]:
        """The variables that are set and that this suite has no use for, under their names in capitals."""
        several = suite.clients is not None
        without_use = {
            "CAPTURE_CLIENT": several and self.capture_client is not None,
            "TARGET_CLIENT": several and self.target_client is not None,
            "NUM_ATTACK_CLIENTS": not several and self.num_attack_clients is not None,
        }
        return [name for name, given in without_use.items() if given]

    def _client(self) -> int | None:
        if (
            None not in (self.capture_client, self.target_client)
            and self.capture_client != self.target_client
        ):
            raise InputError(
                f"CAPTURE_CLIENT = {self.capture_client} and TARGET_CLIENT = {self.target_client} are both set, and "
                "mean the same; unset one."
            )
        return self.capture_client if self.capture_client is not None else self.target_client


def _clients_axis(name: str, count: int) -> str:
    """The axis of cells that attack the first `count` clients."""
    if count < 1:
        raise InputError(f"NUM_ATTACK_CLIENTS = {count}: must be at least 1.")
    cells = {name.format(client=client): client for client in range(count)}
    return f"axes.capture.client={json.dumps(cells)}"
