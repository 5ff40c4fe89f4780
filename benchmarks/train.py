"""Training speed: ours against a plain PyTorch loop, and against timm's own train script.

`make bench-train` runs it. The plain loop trains the same three networks from an ImageFolder of
PNG files with torchvision transforms, a DataLoader, fp32 and AdamW, at the best batch size and
number of workers found in a first round. Rounds of ours and the peer alternate in one process.

timm's train script is no part of its package: give its path (`--timm-train train.py`, from the
source of the installed release) to compare one backbone as well.
"""

import argparse
import itertools
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import timm
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from benchmarks.measuring import describe_machine, describe_versions, print_result, summarise
from idc.core.config import Params, load_params
from idc.models.networks.device import choose_device
from idc.models.networks.fusion import create_fusion
from idc.training.checkpoint import Checkpoint
from idc.training.loop import train_fusion
from idc.training.sources import ImageSource, TrainingPatches

_CPU_BATCH_SIZES, _GPU_BATCH_SIZES = (32, 64, 128), (128, 256, 512, 1024)
_CPU_SIZES, _GPU_SIZES = {"patches": 384, "batch_size": 64}, {"patches": 20_480, "batch_size": 1024}
_TRAFFIC_MB = {64: 72.0, 96: 162.0, 128: 287.0, 224: 880.0}  # bf16, every kernel fused, a patch
_TARGET_CPU, _TARGET_GPU = 1.3, 3.0


class PlainFusion(nn.Module):
    """What a notebook would write: three networks, concatenated, a linear layer."""

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__()
        self.nets = nn.ModuleList(timm.create_model(name, num_classes=0) for name in names)
        self.head = nn.Linear(sum(net.num_features for net in self.nets), 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (batch,)."""
        return self.head(torch.cat([net(images) for net in self.nets], dim=1)).squeeze(1)


def main() -> None:
    """Print patches/s of both, and their ratio with its spread."""
    options = _parse()
    params = _parameters(options)
    device = choose_device(params.runtime)
    print(describe_machine())
    print(describe_versions("torch", "timm", "torchvision", "albumentations"))
    print(f"device {device}, {torch.get_num_threads()} threads, {options.size_px} px")
    with tempfile.TemporaryDirectory() as scratch:
        pixels, labels = _patches(options)
        folder = Path(scratch) / "images"
        _write_images(pixels, labels, folder)
        batch_size, workers = _find_best(folder, params, device, options)
        _compare(pixels, labels, folder, params, device, options, batch_size, workers)
        if options.timm_train:
            _compare_with_timm(pixels, labels, folder, params, device, options)
        else:
            print("timm's train script: not measured (--timm-train PATH measures it)")
    if device.type != "cuda":
        print("GPU: not measured here; `make bench-train` on a machine with one measures it")


def _compare(
    pixels: np.ndarray,
    labels: np.ndarray,
    folder: Path,
    params: Params,
    device: torch.device,
    options: argparse.Namespace,
    batch_size: int,
    workers: int,
) -> None:
    ours, plain = [], []
    for _ in range(options.rounds):
        plain.append(
            _time_plain(folder, params.model.backbones, batch_size, workers, device, options)
        )
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()  # what is told below is ours
        ours.append(_time_ours(pixels, labels, params, device))
    ratios = [one / other for one, other in zip(ours, plain, strict=True)]
    target = _TARGET_GPU if device.type == "cuda" else _TARGET_CPU
    print_result(
        what="fusion",
        ours_batch=params.train.batch_size,
        plain_batch=batch_size,
        plain_workers=workers,
        **summarise("ours_per_s", ours),
        **summarise("plain_per_s", plain),
        **summarise("ratio", ratios),
        target=target,
        **_memory(device),
    )
    if device.type == "cuda" and options.size_px in _TRAFFIC_MB:
        ceiling = options.bandwidth_tb_s * 1e6 / _TRAFFIC_MB[options.size_px]
        share = statistics.median(ours) / ceiling
        print_result(what="memory-bound ceiling", ceiling_per_s=ceiling, share=share, target=0.6)


def _compare_with_timm(
    pixels: np.ndarray,
    labels: np.ndarray,
    folder: Path,
    params: Params,
    device: torch.device,
    options: argparse.Namespace,
) -> None:
    alone = params.model_copy(
        update={
            "model": params.model.model_copy(
                update={"backbones": (options.backbone,), "aux_heads": False}
            )
        }
    )
    ours, theirs = [], []
    for _ in range(options.rounds):
        theirs.append(_time_timm(folder, options, params.train.batch_size, device))
        ours.append(_time_ours(pixels, labels, alone, device))
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    print_result(
        what=options.backbone,
        **summarise("ours_per_s", ours),
        **summarise("timm_per_s", theirs),
        **summarise("ratio", ratios),
    )


def _time_ours(
    pixels: np.ndarray, labels: np.ndarray, params: Params, device: torch.device
) -> float:
    """Return patches/s of the second epoch: the first warms up."""
    rows = np.arange(len(labels))
    train = TrainingPatches(rows, labels)
    val_rows = np.concatenate([np.flatnonzero(labels == label)[:8] for label in (0, 1)])
    torch.manual_seed(0)
    source = ImageSource(pixels, train, val_rows, params, device)
    speeds: list[float] = []
    with tempfile.TemporaryDirectory() as scratch:
        train_fusion(
            create_fusion(params.model), source, labels[val_rows], params,
            class_weights=np.ones(2), device=device,
            checkpoint=Checkpoint(Path(scratch), interval_s=1e9),
            on_epoch=lambda _result, speed: speeds.append(speed),
        )  # fmt: skip
    return speeds[-1]


def _time_plain(
    folder: Path,
    names: tuple[str, ...],
    batch_size: int,
    workers: int,
    device: torch.device,
    options: argparse.Namespace,
) -> float:
    """Return patches/s after two batches of warm-up."""
    change = transforms.Compose(
        [
            transforms.Resize(options.size_px),
            transforms.RandomHorizontalFlip(),
            transforms.RandomVerticalFlip(),
            transforms.ColorJitter(0.1, 0.1, 0.1, 0.02),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    loader = DataLoader(
        datasets.ImageFolder(str(folder), change),
        batch_size=batch_size, shuffle=True, drop_last=True, num_workers=workers,
        pin_memory=device.type == "cuda", persistent_workers=workers > 0,
    )  # fmt: skip
    model = PlainFusion(names).to(device)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    loss_of = nn.BCEWithLogitsLoss()
    endless = itertools.chain.from_iterable(itertools.repeat(loader))
    start, num_batches = 0.0, max(3, options.patches // batch_size)
    for number, (images, labels) in enumerate(itertools.islice(endless, num_batches + 2)):
        if number == 2:
            start = _now(device)
        loss = loss_of(model(images.to(device)), labels.float().to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return num_batches * batch_size / (_now(device) - start)


def _find_best(
    folder: Path, params: Params, device: torch.device, options: argparse.Namespace
) -> tuple[int, int]:
    """Return the plain loop's best batch size and number of workers."""
    speeds: dict[tuple[int, int], float] = {}
    sizes = _GPU_BATCH_SIZES if device.type == "cuda" else _CPU_BATCH_SIZES
    for batch_size, workers in itertools.product(sizes, (0, options.workers)):
        if batch_size > options.patches:
            continue
        speeds[batch_size, workers] = _time_plain(
            folder, params.model.backbones, batch_size, workers, device, options
        )
    named = {f"batch{b}_workers{w}": speed for (b, w), speed in speeds.items()}
    print_result(what="plain loop, one round each", **named)
    batch_size, workers = max(speeds, key=lambda key: speeds[key])
    return batch_size, workers


def _time_timm(
    folder: Path, options: argparse.Namespace, batch_size: int, device: torch.device
) -> float:
    """Return the training throughput that timm's script reports for one epoch."""
    with tempfile.TemporaryDirectory() as output:
        command = [
            sys.executable, str(options.timm_train), "--data-dir", str(folder),
            "--train-split", ".", "--val-split", ".", "--model", options.backbone,
            "--num-classes", "2", "--img-size", str(options.size_px), "--epochs", "1",
            "-b", str(batch_size), "-j", str(options.workers), "--device", device.type,
            "--opt", "adamw", "--lr", "1e-3", "--output", output, "--log-interval", "1",
            "--warmup-epochs", "0", "--channels-last",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
    # each line ends in "(mean seconds, mean patches/s)"
    rates = [
        float(rate) for rate in re.findall(r"\([\d.]+s,\s*([\d.]+)/s\)", done.stdout + done.stderr)
    ]
    if not rates:
        raise SystemExit(f"timm's script reports no speed:\n{done.stderr[-2000:]}")
    return rates[-1]  # a running mean over the epoch


def _parameters(options: argparse.Namespace) -> Params:
    params = load_params(Path("params.yaml"))
    model = params.model.model_copy(update={"pretrained": "none", "size_px": options.size_px})
    train = params.train.model_copy(
        update={"epochs": 2, "patience": 2, "batch_size": options.batch_size}
    )
    runtime = params.runtime.model_copy(update={"num_threads": options.threads})
    return params.model_copy(update={"model": model, "train": train, "runtime": runtime})


def _patches(options: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Return noise of tissue colour: what is in a patch does not change the speed."""
    rng = np.random.default_rng(0)
    base = rng.integers(100, 220, (options.patches, 1, 1, 3))
    noise = rng.integers(-30, 30, (options.patches, 50, 50, 3))
    labels = (np.arange(options.patches) % 2).astype(np.int8)
    return np.clip(base + noise, 0, 255).astype(np.uint8), labels


def _write_images(pixels: np.ndarray, labels: np.ndarray, folder: Path) -> None:
    for number, (patch, label) in enumerate(zip(pixels, labels, strict=True)):
        path = folder / str(label) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), patch)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _memory(device: torch.device) -> dict[str, Any]:
    host_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if device.type != "cuda":
        return {"peak_host_gib": host_gib}
    return {
        "peak_host_gib": host_gib,
        "peak_device_gib": torch.cuda.max_memory_allocated() / 2**30,
    }


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size-px", type=int, default=64)
    parser.add_argument("--patches", type=int, help="a round (default: 384, on a GPU 20,480)")
    parser.add_argument("--batch-size", type=int, help="ours (default: 64, on a GPU 1,024)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2, help="of the peers, beside 0")
    parser.add_argument("--threads", type=int, help="of torch; all cores unless given")
    parser.add_argument("--backbone", default="resnet50", help="compared with timm's script")
    parser.add_argument("--timm-train", type=Path, help="timm's train.py")
    parser.add_argument(
        "--bandwidth-tb-s", type=float, default=4.3, help="of the GPU's memory (H200: 4.3 in use)"
    )
    options = parser.parse_args()
    for name, size in (_GPU_SIZES if torch.cuda.is_available() else _CPU_SIZES).items():
        if getattr(options, name) is None:
            setattr(options, name, size)
    if options.timm_train and not options.timm_train.is_file():
        parser.error(f"--timm-train: {options.timm_train} does not exist")
    return options


if __name__ == "__main__":
    main()
