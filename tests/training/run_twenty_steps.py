"""Run 20 training steps, alone or under torchrun, and let rank 0 write their losses.

Called by test_ranks.py in processes of its own: `run_twenty_steps.py LOSSES [micro batch]`.
"""

import sys
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import nn

from idc.core.config import Params
from idc.data.batches.loader import BatchPlan
from idc.data.subsets import LabelledRows
from idc.models.networks.fusion import create_fusion
from idc.training.checkpoint import Checkpoint
from idc.training.loop import _TrainingRun
from idc.training.ranks import init_ranks
from idc.training.sources import ImageSource, TrainingData

BATCH_SIZE, NUM_STEPS = 16, 20
CPU = torch.device("cpu")


def keep_norms_as_they_are(model: nn.Module) -> None:
    """Batch norms see only their own process's patches, so learning ones cannot agree."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
            module.train = lambda mode=True, module=module: module


def main() -> None:
    torch.set_num_threads(1)
    content = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    content["model"] |= {
        "backbones": ["test_resnet", "test_efficientnet"], "pretrained": "none",
        "size_px": 32, "dropout": 0.0,
    }  # fmt: skip
    content["train"] |= {
        "batch_size": BATCH_SIZE, "epochs": 1, "learning_rate": 0.003, "precision": "fp32",
    }  # fmt: skip
    params = Params.model_validate(content)
    rng = np.random.default_rng(0)
    num_patches = BATCH_SIZE * NUM_STEPS
    labels = rng.integers(0, 2, num_patches).astype(np.int8)
    pixels = rng.integers(0, 200, (num_patches, 50, 50, 3), dtype=np.uint8)
    pixels[labels == 1, :, :, 0] += 50
    data = TrainingData(
        pixels,
        LabelledRows(np.arange(num_patches), labels),
        LabelledRows(np.arange(30), labels[:30]),
    )
    with init_ranks(CPU) as ranks:
        torch.manual_seed(0)
        model = create_fusion(params.model)
        keep_norms_as_they_are(model)
        source = ImageSource(
            data, params.model.size_px, params.augment,
            BatchPlan(BATCH_SIZE, params.seeds.training), 16, ranks,
        )  # fmt: skip
        checkpoint = Checkpoint(Path(sys.argv[1]).parent / "none", interval_s=1e9)
        run = _TrainingRun(model, source, params.train, np.array([0.8, 1.3]), checkpoint)
        run._learn()
        losses = ranks.sum(run.losses) / ranks.world_size
        scores = source.score_val(model)
        if ranks.is_main:
            np.savez(sys.argv[1], losses=losses.numpy(), scores=scores)


if __name__ == "__main__":
    main()
