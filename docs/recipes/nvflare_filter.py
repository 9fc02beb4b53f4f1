"""NVFlare: two filters of a client that save what it sends; task and result themselves stay as they are.

Used by nvflare_job.py. In a job of your own:

    recipe.add_client_input_filter(KeepWeights(), tasks=["train"])
    recipe.add_client_output_filter(SaveUpdate(...), tasks=["train"])
"""

from pathlib import Path

import torch
from nvflare.apis.dxo import DXO, DataKind
from nvflare.apis.dxo_filter import DXOFilter
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from update_file import save_update

KEPT = "weights_before_training"


class KeepWeights(DXOFilter):
    """Keeps the weights that come with a task."""

    def __init__(self) -> None:
        super().__init__(supported_data_kinds=[DataKind.WEIGHTS], data_kinds_to_filter=[DataKind.WEIGHTS])

    def process_dxo(self, dxo: DXO, shareable: Shareable, fl_ctx: FLContext) -> None:  # noqa: ARG002
        """Keep them; None says that nothing was filtered."""
        fl_ctx.set_prop(KEPT, _tensors(dxo), private=True, sticky=True)


class SaveUpdate(DXOFilter):
    """Writes OUT/nvflare-SITE.safetensors; `lr`, `steps` and `examples` are what is known of the training."""

    def __init__(self, out: str, lr: float, steps: int, examples: int) -> None:
        kinds = [DataKind.WEIGHTS, DataKind.WEIGHT_DIFF]
        super().__init__(supported_data_kinds=kinds, data_kinds_to_filter=kinds)
        self.out, self.lr, self.steps, self.examples = out, lr, steps, examples

    def process_dxo(self, dxo: DXO, shareable: Shareable, fl_ctx: FLContext) -> None:  # noqa: ARG002
        """Save the weights that came and those that the result stands for."""
        before, sent = fl_ctx.get_prop(KEPT), _tensors(dxo)
        changed = dxo.data_kind == DataKind.WEIGHT_DIFF
        after = {name: before[name] + value for name, value in sent.items()} if changed else sent
        path = Path(self.out) / f"nvflare-{fl_ctx.get_identity_name()}.safetensors"
        save_update(path, before, after, lr=self.lr, steps=self.steps, examples=self.examples)


def _tensors(dxo: DXO) -> dict[str, torch.Tensor]:
    return {name: torch.as_tensor(value).clone() for name, value in dxo.data.items()}
