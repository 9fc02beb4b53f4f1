"""The same federation in Flower's simulation, by its public interface; runs in Flower's own environment.

python -c "import flower_peer; flower_peer.main()" CASE   (CASE is JSON; one JSON line a round comes back)
"""

from __future__ import annotations

import json
import logging
import sys
import time
from functools import cache

import torch
from federation_case import Case, Judge
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch.nn import functional

from fl_core.base.types import ModelState
from fl_core.federation.federation import Federation
from fl_core.models.build import build_model

client_app = ClientApp()


@cache
def federation_of(text: str) -> Federation:
    """The data of all clients, opened once in each process."""
    torch.set_num_threads(1)
    return Case.read(text).federation()


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """One client's local training: plain PyTorch on the batches that our own client of that number has."""
    settings = message.content["config"]
    federation = federation_of(str(settings["case"]))
    client, round_number = int(context.node_config["partition-id"]), int(settings["server-round"]) - 1
    network = build_model(federation.model).to_empty(device="cpu")
    network.load_state_dict(message.content["arrays"].to_torch_state_dict())
    local = federation.config.local
    optimizer = torch.optim.SGD(network.parameters(), lr=local.lr, momentum=local.momentum)
    for batch in federation.local_batches(client, round_number):
        images, labels = federation.load(batch)
        optimizer.zero_grad()
        functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
    answer = {
        "arrays": ArrayRecord(network.state_dict()),
        "metrics": MetricRecord({"num-examples": len(federation.shares[client])}),
    }
    return Message(content=RecordDict(answer), reply_to=message)


def server_app(case: Case) -> ServerApp:
    """FedAvg over a sample of the clients; the judge's time between rounds is not counted."""
    app, judge = ServerApp(), Judge(case)
    finished = 0.0

    def judged(round_number: int, arrays: ArrayRecord) -> MetricRecord:
        nonlocal finished
        seconds = time.perf_counter() - finished
        loss = judge.loss(ModelState(parameters=arrays.to_torch_state_dict()))
        if round_number:
            print(json.dumps({"round": round_number, "seconds": seconds, "loss": loss}), flush=True)
        finished = time.perf_counter()
        return MetricRecord({"loss": loss})

    @app.main()
    def main(grid: Grid, context: Context) -> None:  # noqa: ARG001 - given by Flower
        strategy = FedAvg(
            fraction_train=case.sampled / case.clients,
            fraction_evaluate=0.0,
            min_available_nodes=case.clients,
        )
        strategy.start(
            grid=grid,
            initial_arrays=ArrayRecord(dict(case.start().parameters)),
            num_rounds=case.rounds,
            train_config=ConfigRecord({"case": case.written()}),
            evaluate_fn=judged,
        )

    return app


def main() -> None:
    """Run the case named on the command line."""
    case = Case.read(sys.argv[1])
    torch.set_num_threads(1)
    logging.getLogger("flwr").setLevel(logging.ERROR)
    run_simulation(
        server_app=server_app(case),
        client_app=client_app,
        num_supernodes=case.clients,
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            "init_args": {"num_cpus": case.cores, "log_to_driver": False, "logging_level": "error"},
        },
    )
