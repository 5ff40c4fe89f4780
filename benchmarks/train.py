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
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
from idc.data.batches.loader import BatchPlan
from idc.data.subsets import LabelledRows
from idc.models.networks.device import choose_device
from idc.models.networks.fusion import create_fusion
from idc.training.checkpoint import Checkpoint
from idc.training.loop import train_fusion
from idc.training.ranks import Ranks
from idc.training.sources import ImageSource, TrainingData

_ROOT = Path(__file__).parents[1]
_CPU_BATCH_SIZES, _GPU_BATCH_SIZES = (32, 64, 128), (128, 256, 512, 1024)
_CPU_SIZES, _GPU_SIZES = {"patches": 384, "batch_size": 64}, {"patches": 20_480, "batch_size": 1024}
_TRAFFIC_MB = {64: 72.0, 96: 162.0, 128: 287.0, 224: 880.0}  # bf16, every kernel fused, a patch
_TARGET_CPU, _TARGET_GPU = 1.3, 3.0


class PlainFusion(nn.Module):
    """What a notebook would write: three networks, concatenated, a linear layer."""

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__()
        nets = [timm.create_model(name, num_classes=0) for name in names]
        self.nets = nn.ModuleList(nets)
        self.head = nn.Linear(sum(net.num_features for net in nets), 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (batch,)."""
        return self.head(torch.cat([net(images) for net in self.nets], dim=1)).squeeze(1)


@dataclass(frozen=True)
class TrainingBench:
    """What is trained, where, and how often."""

    params: Params
    """Of ours, two epochs; the plain loop takes backbones and size from it."""
    device: torch.device
    patches: int
    """In each round."""
    rounds: int
    plain_batch_sizes: tuple[int, ...]
    """Of the plain loop, whose best is taken."""
    plain_workers: tuple[int, ...]
    """Numbers of workers of the plain loop, whose best is taken."""

    @property
    def size_px(self) -> int:
        """Edge of the images."""
        return self.params.model.size_px


@dataclass(frozen=True)
class _Data:
    """The same patches for both: uint8 (patches, 50, 50, 3), and a folder of PNG files."""

    pixels: np.ndarray
    labels: np.ndarray
    folder: Path


def main() -> None:
    """Print patches/s of both, and their ratio with its spread."""
    options = _parse()
    params = choose_parameters(options.size_px, options.batch_size, options.threads)
    device = choose_device(params.runtime)
    on_gpu = device.type == "cuda"
    bench = TrainingBench(
        params, device, options.patches, options.rounds,
        plain_batch_sizes=_GPU_BATCH_SIZES if on_gpu else _CPU_BATCH_SIZES,
        plain_workers=(0, options.workers),
    )  # fmt: skip
    print(describe_machine())
    print(describe_versions("torch", "timm", "torchvision", "albumentations"))
    print(f"device {device}, {torch.get_num_threads()} threads, {options.size_px} px")
    result = compare_training(bench)
    print_result(**result)
    if on_gpu and options.size_px in _TRAFFIC_MB:
        ceiling = options.bandwidth_tb_s * 1e6 / _TRAFFIC_MB[options.size_px]
        share = float(result["ours_per_s"]) / ceiling
        print_result(what="memory-bound ceiling", ceiling_per_s=ceiling, share=share, target=0.6)
    if options.timm_train:
        print_result(**_compare_with_timm(bench, options.timm_train, options.backbone))
    else:
        print("timm's train script: not measured (--timm-train PATH measures it)")
    if not on_gpu:
        print("GPU: not measured here; `make bench-train` on a machine with one measures it")


def compare_training(bench: TrainingBench) -> dict[str, float | str]:
    """Train by both in alternate rounds; return patches/s, ratios and memory for `print_result`."""
    ours, plain = [], []
    with _patches(bench.patches) as data:
        batch_size, workers = _find_best(bench, data.folder)
        for _ in range(bench.rounds):
            plain.append(_time_plain(bench, data.folder, batch_size, workers))
            if bench.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()  # what is reported below is ours
            ours.append(_time_ours(bench.params, data, bench.device))
    ratios = [one / other for one, other in zip(ours, plain, strict=True)]
    return {
        "what": "fusion",
        "ours_batch": bench.params.train.batch_size,
        "plain_batch": batch_size,
        "plain_workers": workers,
        **summarise("ours_per_s", ours),
        **summarise("plain_per_s", plain),
        **summarise("ratio", ratios),
        "target": _TARGET_GPU if bench.device.type == "cuda" else _TARGET_CPU,
        **_memory(bench.device),
    }


def _compare_with_timm(bench: TrainingBench, script: Path, backbone: str) -> dict[str, float | str]:
    change = {"backbones": (backbone,), "aux_heads": False}
    alone = bench.params.model_copy(update={"model": bench.params.model.model_copy(update=change)})
    ours, theirs = [], []
    with _patches(bench.patches) as data:
        for _ in range(bench.rounds):
            theirs.append(_time_timm(bench, script, backbone, data.folder))
            ours.append(_time_ours(alone, data, bench.device))
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    return {
        "what": backbone,
        **summarise("ours_per_s", ours),
        **summarise("timm_per_s", theirs),
        **summarise("ratio", ratios),
    }


def _time_ours(params: Params, data: _Data, device: torch.device) -> float:
    """Return patches/s of the second epoch: the first warms up."""
    labels = data.labels
    train = LabelledRows(np.arange(len(labels)), labels)
    val_rows = np.concatenate([np.flatnonzero(labels == label)[:8] for label in (0, 1)])
    torch.manual_seed(0)
    source = ImageSource(
        TrainingData(data.pixels, train, LabelledRows(val_rows, labels[val_rows])),
        params.model.size_px,
        params.augment,
        BatchPlan(params.train.batch_size, params.seeds.training),
        params.runtime.scoring_batch_size,
        Ranks(device),
    )
    speeds: list[float] = []
    with tempfile.TemporaryDirectory() as scratch:
        train_fusion(
            create_fusion(params.model), source, params.train,
            class_weights=np.ones(2),
            checkpoint=Checkpoint(Path(scratch), interval_s=1e9),
            on_epoch=lambda _result, speed: speeds.append(speed),
        )  # fmt: skip
    return speeds[-1]


def _time_plain(bench: TrainingBench, folder: Path, batch_size: int, workers: int) -> float:
    """Return patches/s after two batches of warm-up."""
    device = bench.device
    change = transforms.Compose(
        [
            transforms.Resize(bench.size_px),
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
    model = PlainFusion(bench.params.model.backbones).to(device)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    loss_of = nn.BCEWithLogitsLoss()
    endless = itertools.chain.from_iterable(itertools.repeat(loader))
    start, num_batches = 0.0, max(3, bench.patches // batch_size)
    for number, (images, labels) in enumerate(itertools.islice(endless, num_batches + 2)):
        if number == 2:
            start = _now(device)
        loss = loss_of(model(images.to(device)), labels.float().to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return num_batches * batch_size / (_now(device) - start)


def _find_best(bench: TrainingBench, folder: Path) -> tuple[int, int]:
    """Return the plain loop's best batch size and number of workers."""
    speeds: dict[tuple[int, int], float] = {}
    candidates = itertools.product(bench.plain_batch_sizes, bench.plain_workers)
    for batch_size, workers in candidates:
        if batch_size <= bench.patches:
            speeds[batch_size, workers] = _time_plain(bench, folder, batch_size, workers)
    named = {f"batch{b}_workers{w}": speed for (b, w), speed in speeds.items()}
    print_result(what="plain loop, one round each", **named)
    batch_size, workers = max(speeds, key=lambda key: speeds[key])
    return batch_size, workers


def _time_timm(bench: TrainingBench, script: Path, backbone: str, folder: Path) -> float:
    """Return the training throughput that timm's script reports for one epoch."""
    with tempfile.TemporaryDirectory() as output:
        command = [
            sys.executable, str(script), "--data-dir", str(folder),
            "--train-split", ".", "--val-split", ".", "--model", backbone,
            "--num-classes", "2", "--img-size", str(bench.size_px), "--epochs", "1",
            "-b", str(bench.params.train.batch_size), "-j", str(max(bench.plain_workers)),
            "--device", bench.device.type,
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


def choose_parameters(size_px: int, batch_size: int, num_threads: int | None) -> Params:
    """Return the project's parameters with two epochs from scratch: one warms up."""
    params = load_params(_ROOT / "params.yaml")
    model = params.model.model_copy(update={"pretrained": "none", "size_px": size_px})
    train = params.train.model_copy(update={"epochs": 2, "patience": 2, "batch_size": batch_size})
    runtime = params.runtime.model_copy(update={"num_threads": num_threads})
    return params.model_copy(update={"model": model, "train": train, "runtime": runtime})


@contextmanager
def _patches(count: int) -> Iterator[_Data]:
    """Yield noise of tissue colour: what is in a patch does not change the speed."""
    rng = np.random.default_rng(0)
    base = rng.integers(100, 220, (count, 1, 1, 3))
    noise = rng.integers(-30, 30, (count, 50, 50, 3))
    labels = (np.arange(count) % 2).astype(np.int8)
    pixels = np.clip(base + noise, 0, 255).astype(np.uint8)
    with tempfile.TemporaryDirectory() as scratch:
        _write_images(pixels, labels, Path(scratch))
        yield _Data(pixels, labels, Path(scratch))


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
