"""NVFlare: one round of federated averaging on simulated clients, with the filter that saves their updates.

python nvflare_job.py PICTURES OUT
"""

import sys
from pathlib import Path

from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
from nvflare.recipe import SimEnv

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # simulated clients start elsewhere
from network import LR, Net, arguments, pictures
from nvflare_filter import KeepWeights, SaveUpdate

if __name__ == "__main__":
    data, out = arguments()
    examples = len(pictures(data)[1])
    recipe = FedAvgRecipe(
        name="gradsweep",
        model=Net(),
        min_clients=1,
        num_rounds=1,
        train_script=str(HERE / "nvflare_client.py"),
        train_args=str(data.resolve()),
    )
    recipe.add_client_input_filter(KeepWeights(), tasks=["train"])
    save = SaveUpdate(out=str(out.resolve()), lr=LR, steps=1, examples=examples)
    recipe.add_client_output_filter(save, tasks=["train"])
    for name in ("network.py", "update_file.py"):
        recipe.add_client_file(str(HERE / name))
    recipe.execute(SimEnv(num_clients=1, workspace_root=str(out.resolve() / "nvflare")))
