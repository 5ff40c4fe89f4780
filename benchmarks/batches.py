"""The input pipeline alone against the device's demand: `make bench-batches`.

Pipeline: from the memory-mapped pixel store in random order to augmented uint8 patches on the
device, with 0, 1 and 2 workers and as many as training takes there, once they have started and
are busy.
Demand: patches/s of training steps of the fusion CNN on that device, from patches that are there
already (resizing, forward, backward, AdamW). All in interleaved rounds; ratios are those of a
round. A pipeline that delivers 1.5 times the demand never makes a device wait.

Host memory is what the whole family of processes holds privately (each shared page counted once),
above what this process held before; device memory is the allocator's peak.
"""

import argparse
import gc
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import torch
from torch import nn

from benchmarks.measuring import (
    describe_machine,
    describe_versions,
    interleave,
    print_result,
    summarise,
)
from idc.core.config import Params, load_params
from idc.data.batches.augment import Augmentation
from idc.data.batches.loader import BatchPlan, TrainingBatches, create_loader
from idc.data.images import to_images
from idc.data.subsets import LabelledRows
from idc.models.networks.cpu_convolutions import adapt_convolutions
from idc.models.networks.device import choose_autocast, choose_device
from idc.models.networks.fusion import create_fusion
from idc.synthetic import draw_slide
from idc.synthetic.slide import cut_patches
from idc.training.sources import count_workers

ROOT = Path(__file__).parents[1]
WORKERS = (0, 1, 2)
TARGET = 1.5
SAMPLE_S = 0.05
SEED = 17


@dataclass(frozen=True)
class BatchesBench:
    """What is delivered, where to, and how often."""

    params: Params
    device: torch.device
    pixels: Path | None
    """A pixels.npy; None draws some."""
    size_px: int
    batch_size: int
    batches: int
    """Of the pipeline, in each round."""
    steps: int
    """Of training, in each round."""
    rounds: int


def main() -> None:
    """Print every configuration's rate, ratio and memory; the last line is key=value."""
    options = _parse()
    params = _choose_parameters(options.threads, options.stain_prob)
    bench = BatchesBench(
        params, choose_device(params.runtime),
        options.pixels, options.size_px, options.batch_size,
        options.batches, options.steps, options.rounds,
    )  # fmt: skip
    print(describe_machine())
    print(describe_versions("torch", "albumentations", "opencv-python-headless", "numpy"))
    print(f"device: {_describe(bench.device)}, torch threads {torch.get_num_threads()}")
    print(f"batches of {bench.batch_size}, {bench.params.augment}")
    print_result(**compare_batches(bench))


def compare_batches(bench: BatchesBench) -> dict[str, float | str]:
    """Run pipelines and demand in interleaved rounds, print a line for each; return all results."""
    with tempfile.TemporaryDirectory(prefix="idc-bench-") as scratch:
        pixels = np.load(bench.pixels or _draw(Path(scratch)), mmap_mode="r")
        print(f"{len(pixels):,} patches")
        pipelines = {
            f"workers_{workers}": _Pipeline(bench, pixels, workers)
            for workers in sorted({*WORKERS, count_workers(bench.device)})
        }
        demand = _Demand(bench, pixels)
        interleave(bench.rounds, {**pipelines, "demand": demand})
    return _report(pipelines, demand.measured)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pixels", type=Path, help="a pixels.npy; without it some are drawn")
    parser.add_argument("--size-px", type=int, default=96, help="edge of the images")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--batches", type=int, default=30, help="of the pipeline, in each round")
    parser.add_argument("--steps", type=int, default=3, help="of training, in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stain-prob", type=float, default=0.0, help="augment.he_stain_prob")
    parser.add_argument("--threads", type=int, help="CPU threads of torch (default: all cores)")
    return parser.parse_args()


def _choose_parameters(num_threads: int | None, stain_prob: float) -> Params:
    params = load_params(ROOT / "params.yaml")
    runtime = params.runtime.model_copy(update={"num_threads": num_threads})
    augment = params.augment.model_copy(update={"he_stain_prob": stain_prob})
    return params.model_copy(update={"runtime": runtime, "augment": augment})


def _describe(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def _draw(scratch: Path) -> Path:
    """Draw patches like the real ones, shown often enough that batches do not lie in the cache."""
    slide = draw_slide(np.random.default_rng(SEED), 2000, burden=0.3, difficulty="real")
    cut = cut_patches("1", slide, slide.layout.idc)
    drawn = np.stack([pixels for _, pixels, _ in cut if pixels.shape == (50, 50, 3)])
    np.save(scratch / "pixels.npy", np.concatenate([drawn] * 10))
    return scratch / "pixels.npy"


@dataclass
class _Measured:
    """Patches per second and memory of each round."""

    rates: list[float] = field(default_factory=list)
    host_mb: list[float] = field(default_factory=list)
    device_mb: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{statistics.median(self.rates):,.1f} patches/s, host +{max(self.host_mb):,.0f} MB, "
            f"device {max(self.device_mb):,.0f} MB"
        )


class _Pipeline:
    """Batches by so many workers; each call serves some to the device."""

    def __init__(self, bench: BatchesBench, pixels: np.ndarray, num_workers: int) -> None:
        self._pixels, self._num_workers, self._device = pixels, num_workers, bench.device
        self._augmentation = Augmentation(bench.params.augment, SEED)
        self._batch_size, self._num_batches = bench.batch_size, bench.batches
        self._num_warming = 1 + 2 * num_workers  # a loader asks for two batches a worker ahead
        self.measured = _Measured()

    def __call__(self) -> None:
        epoch = len(self.measured.rates)
        loader = create_loader(
            self._create_batches(epoch),
            num_workers=self._num_workers,
            pin_memory=self._device.type == "cuda",
        )
        with _watch_memory(self._device, self.measured):
            start, count = 0.0, 0
            for number, (patches, _) in enumerate(loader):
                if number == self._num_warming:
                    self._synchronise()
                    start, count = time.perf_counter(), 0
                count += len(patches.to(self._device, non_blocking=True))
            self._synchronise()
            self.measured.rates.append(count / (time.perf_counter() - start))

    def _create_batches(self, epoch: int) -> TrainingBatches:
        rows = np.random.default_rng([SEED, epoch]).permutation(len(self._pixels))
        rows = rows[: self._batch_size * (self._num_warming + self._num_batches)]
        return TrainingBatches(
            self._pixels,
            LabelledRows(rows, np.zeros(len(rows), np.int8)),
            BatchPlan(self._batch_size, SEED),
            epoch=epoch,
            augmentation=self._augmentation,
        )

    def _synchronise(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


class _Demand:
    """Training steps of the fusion CNN on patches that lie on the device."""

    def __init__(self, bench: BatchesBench, pixels: np.ndarray) -> None:
        params, device = bench.params, bench.device
        self._device, self._num_steps, self._size_px = device, bench.steps, bench.size_px
        model = create_fusion(params.model.model_copy(update={"pretrained": "none"}))
        self._model = model.to(device).to(memory_format=torch.channels_last).train()
        if device.type == "cpu":
            adapt_convolutions(model)
        self._optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        self._autocast = choose_autocast(params.train.precision, device)
        self._patches = torch.from_numpy(np.array(pixels[: bench.batch_size])).to(device)
        self._labels = (torch.arange(len(self._patches), device=device) % 2).float()
        self.measured = _Measured()

    def __call__(self) -> None:
        with _watch_memory(self._device, self.measured):
            self._step()
            start = time.perf_counter()
            for _ in range(self._num_steps):
                self._step()
            seconds = time.perf_counter() - start
        self.measured.rates.append(self._num_steps * len(self._patches) / seconds)

    def _step(self) -> None:
        images = to_images(self._patches, size_px=self._size_px, device=self._device)
        with self._autocast:
            logits = self._model(images)
        loss = nn.functional.binary_cross_entropy_with_logits(logits.float(), self._labels)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


@contextmanager
def _watch_memory(device: torch.device, measured: _Measured) -> Iterator[None]:
    """Append the peaks of host and device memory while the block runs."""
    gc.collect()
    before, peak, done = _private_mb(), 0.0, threading.Event()

    def sample() -> None:
        nonlocal peak
        while not done.wait(SAMPLE_S):
            peak = max(peak, _private_mb())

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    watcher = threading.Thread(target=sample)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
    measured.host_mb.append(max(0.0, peak - before))
    on_gpu = device.type == "cuda"
    measured.device_mb.append(torch.cuda.max_memory_allocated(device) / 1e6 if on_gpu else 0.0)


def _private_mb() -> float:
    """Return the anonymous and shared memory of this process and its children.

    A page that several hold counts once, in parts: what forked workers have not written to is
    nobody's addition.
    """
    own = psutil.Process()
    total_kb = 0
    for process in [own, *own.children(recursive=True)]:
        with suppress(OSError, psutil.NoSuchProcess):
            lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="utf-8")
            total_kb += sum(
                int(line.split()[1])
                for line in lines.splitlines()
                if line.startswith(("Pss_Anon:", "Pss_Shmem:"))
            )
    return total_kb * 1024 / 1e6


def _report(pipelines: dict[str, _Pipeline], demand: _Measured) -> dict[str, float | str]:
    """Print a line per configuration; return all for `print_result`."""
    print(f"demand: {demand}")
    results: dict[str, float | str] = {**summarise("demand", demand.rates)}
    for name, pipeline in pipelines.items():
        rates = pipeline.measured.rates
        ratios = [ours / wanted for ours, wanted in zip(rates, demand.rates, strict=True)]
        results |= {name: statistics.median(rates), **summarise(f"ratio_{name}", ratios)}
        print(
            f"{name.replace('_', ': ')}: {pipeline.measured}; "
            f"{statistics.median(ratios):,.1f} [{min(ratios):,.1f}, {max(ratios):,.1f}] times "
            f"the demand (target {TARGET})"
        )
    return results | {"target": TARGET}


if __name__ == "__main__":
    main()
