"""A flow that tells MLflow of a training of four epochs, without training."""

from pathlib import Path

from prefect import flow

from idc.core.config import load_params
from idc.tracking.live import live_run

EPOCHS = 4


@flow
def tell(params_file: str, number: int) -> None:
    params, name = load_params(Path(params_file)), f"training {number}"
    with live_run(Path.cwd(), params, "none", training=name, resumed=False) as live:
        live.log_class_weights([1.0, 1.0])
        for epoch in range(1, EPOCHS + 1):
            live.log_epoch(epoch, {"train/loss": number + 1 / epoch, "val/epoch_auroc": 0.5})
