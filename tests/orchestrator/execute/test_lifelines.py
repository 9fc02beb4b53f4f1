"""Whether Ray's processes are there is seen without asking Ray."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from orchestrator.execute import lifelines
from orchestrator.execute.lifelines import Lifelines, RayLost, await_return


@pytest.fixture
def server() -> Iterator[socket.socket]:
    made = socket.create_server(("127.0.0.1", 0))
    yield made
    made.close()


def address(server: socket.socket) -> str:
    host, port = server.getsockname()
    return f"{host}:{port}"


def test_a_process_that_lives_is_there_even_where_it_closes_a_silent_connection(
    server: socket.socket,
) -> None:
    lines = Lifelines([address(server)], cluster=None)
    accepted, _ = server.accept()
    lines.look()
    accepted.sendall(b"settings of its own accord")
    lines.look()
    accepted.close()
    lines.look()
    again, _ = server.accept()
    lines.look()
    lines.renew()
    again.close()
    lines.close()


@pytest.mark.parametrize("cluster", [None, "127.0.0.1:6379"])
def test_a_process_that_is_gone_is_noticed_at_the_next_look(
    server: socket.socket, cluster: str | None
) -> None:
    lines = Lifelines([address(server)], cluster=cluster)
    accepted, _ = server.accept()
    lines.look()
    server.close()
    accepted.close()
    with pytest.raises(RayLost, match="is gone") as raised:
        lines.look()
    assert raised.value.cluster == cluster
    with pytest.raises(RayLost):
        lines.renew()


def test_a_lost_cluster_is_waited_for_and_not_for_ever(
    server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    await_return(RayLost("a local Ray is started again, not waited for", cluster=None))
    await_return(RayLost("gone", cluster=address(server)))
    monkeypatch.setattr(lifelines, "PATIENCE_SECONDS", 0.0)
    lost = RayLost("gone", cluster=address(server))
    server.close()
    with pytest.raises(RayLost, match="gone"):
        await_return(lost)
