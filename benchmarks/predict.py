"""Scoring patches against plain eager torch, in interleaved rounds: `make bench-predict`.

Ours is what the stage predict does with a batch, from uint8 patches to logits, in the arithmetic
asked for; the seconds of making the scorer stand apart. The peer is the same network as it comes:
eager, fp32, NCHW, in batches of `runtime.scoring_batch_size`, logits fetched batch by batch.
`ratio_small` is against the same peer in the batches of 32 that suit a CPU better.
"""

import argparse
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.measuring import (
    describe_machine,
    describe_versions,
    interleave,
    print_result,
    summarise,
)
from idc.core.config import Precision, load_params
from idc.data.images import to_images
from idc.models.networks.device import choose_device
from idc.models.networks.fusion import FusionCNN
from idc.models.scoring.inference import create_scorer
from idc.models.scoring.patches import PatchScorer
from tests.random_networks import random_fusion

ROOT = Path(__file__).parents[1]
FULL_SIZE = 277_524
FULL_SIZE_PX = 64
SMALL_BATCH = 32
MAX_DIFFERENCE = {"fp32": 1e-3, "bf16": 5e-3}


@dataclass(frozen=True)
class ScoringBench:
    """What is scored, where, and how often."""

    backbones: tuple[str, ...]
    device: torch.device
    size_px: int
    patches: int
    """In each round."""
    batch_size: int
    precision: Precision
    rounds: int


def main() -> None:
    """Print rates, ratios and memory; the last line of the comparison is key=value."""
    options = _parse()
    params = load_params(ROOT / "params.yaml")
    torch.set_num_threads(options.threads or torch.get_num_threads())
    bench = ScoringBench(
        params.model.backbones, choose_device(params.runtime), options.size_px, options.patches,
        options.batch_size or params.runtime.scoring_batch_size, options.precision, options.rounds,
    )  # fmt: skip
    print(describe_machine())
    print(describe_versions("torch", "onnxruntime", "timm"))
    networks = ", ".join(bench.backbones)
    print(
        f"{_describe_device(bench.device)}; {networks}, {bench.size_px} px, ours {bench.precision}"
    )
    print_result(**compare_scoring(bench))
    _print_full_size(bench)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size-px", type=int, default=64)
    parser.add_argument("--patches", type=int, default=512, help="scored by each in each round")
    parser.add_argument("--threads", type=int, help="of the CPU (default: what torch takes)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", choices=list(MAX_DIFFERENCE), default="fp32")
    parser.add_argument(
        "--batch-size", type=int, help="default: runtime.scoring_batch_size; more suits a GPU"
    )
    return parser.parse_args()


def _draw_pixels(num_patches: int) -> np.ndarray:
    return np.random.default_rng(17).integers(0, 256, (num_patches, 50, 50, 3), dtype=np.uint8)


def _describe_device(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU with {torch.get_num_threads()} threads"


def _create_model(bench: ScoringBench) -> FusionCNN:
    torch.manual_seed(17)
    return random_fusion(bench.backbones, dropout=0.0).eval().to(bench.device)


@torch.inference_mode()
def compare_scoring(bench: ScoringBench) -> dict[str, float | str]:
    """Score by both in interleaved rounds; return rates, ratios and memory for `print_result`.

    Raises:
        SystemExit: If the logits differ by more than `MAX_DIFFERENCE`.
    """
    model, pixels = _create_model(bench), _draw_pixels(bench.patches)
    size_px, device = bench.size_px, bench.device
    start = time.perf_counter()
    scorer = create_scorer(model, device, size_px, num_images=FULL_SIZE, precision=bench.precision)
    scorer(torch.rand(bench.batch_size, 3, size_px, size_px, device=device)).cpu()
    making_s = time.perf_counter() - start

    def ours() -> torch.Tensor:
        rows = np.arange(len(pixels))
        batches = PatchScorer(model, size_px, bench.batch_size, device).images(
            pixels, rows, "scoring"
        )
        return torch.cat([scorer(images) for images in batches]).cpu()

    def peer(batch: int) -> Callable[[], torch.Tensor]:
        return lambda: torch.cat(
            [
                model(to_images(chunk, size_px=size_px, device=device).contiguous()).cpu()
                for chunk in torch.from_numpy(pixels).split(batch)
            ]
        )

    logits, our_memory = ours(), _peak_memory_mb()
    tasks = {"ours": ours, "peer": peer(bench.batch_size), "peer_small": peer(SMALL_BATCH)}
    difference = float((logits - tasks["peer"]()).abs().max())
    limit = MAX_DIFFERENCE[bench.precision]
    if not difference <= limit:
        raise SystemExit(f"logits differ by {difference:.2g}, more than {limit}")
    tasks["peer_small"]()
    seconds = interleave(bench.rounds, tasks)
    return {
        "patches": len(pixels),
        **summarise("ours", [len(pixels) / each for each in seconds["ours"]]),
        **summarise("peer", [len(pixels) / each for each in seconds["peer"]]),
        **summarise("ratio", _ratios(seconds, "peer")),
        **summarise("ratio_small", _ratios(seconds, "peer_small")),
        "making_s": making_s,
        "difference": difference,
        "our_peak_host_mb": our_memory,
        "peak_host_mb": _peak_memory_mb(),
    }


def _ratios(seconds: dict[str, list[float]], peer: str) -> list[float]:
    return [b / a for a, b in zip(seconds["ours"], seconds[peer], strict=True)]


def _peak_memory_mb() -> float:
    """Return the peak of this process so far, with Python, torch and the pixels."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _print_full_size(bench: ScoringBench) -> None:
    what = f"{FULL_SIZE:,} patches at {FULL_SIZE_PX} px on a GPU"
    if bench.device.type != "cuda":
        print(f"{what}: not measured; on a machine with one: make bench-predict")
        return
    model, pixels, rows = _create_model(bench), _draw_pixels(FULL_SIZE), np.arange(FULL_SIZE)
    start = time.perf_counter()
    scorer = PatchScorer(model, FULL_SIZE_PX, bench.batch_size, bench.device, bench.precision)
    scorer.score(pixels, rows)
    print(f"{what}: {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
