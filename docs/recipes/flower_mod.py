"""Flower: a mod of the client app that saves what the client sends. Everything else is an ordinary app.

python flower_mod.py PICTURES OUT
"""

import os
import sys
from pathlib import Path

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

sys.path.insert(0, str(Path(__file__).parent))  # simulated clients start elsewhere
from network import LR, arguments, make, pictures
from update_file import save_update


def save_update_mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Save the weights that came and those that go back; the reply itself stays as it is."""
    reply = call_next(message, context)
    if message.metadata.message_type != "train" or reply.has_error():
        return reply
    facts = {"lr": LR, "steps": 1, "examples": int(reply.content["metrics"]["num-examples"])}
    path = Path(os.environ["UPDATES"]) / f"flower-{context.node_config['partition-id']}.safetensors"
    save_update(
        path,
        message.content["arrays"].to_torch_state_dict(),
        reply.content["arrays"].to_torch_state_dict(),
        **facts,
    )
    return reply


client = ClientApp(mods=[save_update_mod])


@client.train()
def train(message: Message, context: Context) -> Message:
    """One local step on this client's pictures."""
    model = make()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    images, labels = pictures(Path(os.environ["PICTURES"]))
    own = slice(int(context.node_config["partition-id"]), None, int(context.node_config["num-partitions"]))
    torch.nn.functional.cross_entropy(model(images[own]), labels[own]).backward()
    torch.optim.SGD(model.parameters(), lr=LR).step()
    content = RecordDict(
        {
            "arrays": ArrayRecord(model.state_dict()),
            "metrics": MetricRecord({"num-examples": len(labels[own])}),
        }
    )
    return Message(content=content, reply_to=message)


server = ServerApp()


@server.main()
def main(grid: Grid, context: Context) -> None:  # noqa: ARG001
    """One round of FedAvg from the network's initial weights."""
    strategy = FedAvg(fraction_evaluate=0.0)
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(make().state_dict()),
        num_rounds=1,
        train_config=ConfigRecord({}),
    )


if __name__ == "__main__":
    data, out = arguments()
    os.environ |= {"PICTURES": str(data.resolve()), "UPDATES": str(out.resolve())}
    run_simulation(server, client, num_supernodes=2)
