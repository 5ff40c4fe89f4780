"""What a GPU does, in one command of at most eight minutes: `make bench-gpu`.

Training at 64, 96 and 224 px against a plain PyTorch loop, scoring in fp32 and bf16 against plain
eager torch, batches against what the device can train on: `benchmarks.train`, `.predict` and
`.batches` with the sizes of a large GPU and two rounds. Each part prints its result as it ends, a
table closes. Without a GPU the command says so and ends with code 2; `--cpu --quick` then takes a
few patches and a small network through the same code.
"""

import argparse
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import torch

from benchmarks.batches import BatchesBench, compare_batches
from benchmarks.measuring import describe_machine, describe_versions, print_result
from benchmarks.predict import ScoringBench, compare_scoring
from benchmarks.train import TrainingBench, choose_parameters, compare_training
from idc.core.config import Params, Precision
from idc.core.processes import count_cores
from idc.training.sources import count_workers

LIMIT_S = 480
_NO_GPU, _STOPPED = 2, 1
_MAX_WORKERS = 16  # of the plain loop; more decode no faster than one device trains
_BANDWIDTH_HINT = "`make bench-train SIZE_PX=…` adds the share of the memory-bound ceiling"


@dataclass(frozen=True)
class Amount:
    """How many patches each part takes in a round, and how many rounds there are."""

    training: Mapping[int, int]
    """Patches by edge in px: fewer of the larger, which take as long."""
    training_batch: Mapping[int, int]
    """Of ours, by edge in px; the plain loop takes the better of this one and a quarter of it."""
    size_px: int
    """Of scoring and batches."""
    scoring: int
    scoring_batch: int
    batches: int
    batch_size: int
    rounds: int
    backbones: tuple[str, ...] | None = None
    """None: those of `params.yaml`."""

    def parameters(self, size_px: int, batch_size: int) -> Params:
        """Return the project's parameters for one part."""
        params = choose_parameters(size_px, batch_size, None)
        if self.backbones is None:
            return params
        model = params.model.model_copy(update={"backbones": self.backbones})
        return params.model_copy(update={"model": model})


FULL = Amount(
    training={64: 20_480, 96: 12_288, 224: 4_096},
    training_batch={64: 1_024, 96: 1_024, 224: 256},
    size_px=64,
    scoring=8_192, scoring_batch=2_048, batches=30, batch_size=256, rounds=2,
)  # fmt: skip
QUICK = Amount(
    training={32: 16}, training_batch={32: 8},
    size_px=32, scoring=8, scoring_batch=8, batches=1, batch_size=4, rounds=1,
    backbones=("test_resnet",),
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One line of the closing table: rates in patches/s, their ratio over the rounds."""

    ours: float
    peer: float
    ratio: float
    ratio_min: float
    ratio_max: float


def main() -> int:
    """Measure all parts; return 0, 1 if the time ran out, 2 without a GPU."""
    options = _parse()
    if not (options.cpu or torch.cuda.is_available()):
        print("no CUDA GPU here: nothing measured (--cpu --quick runs the code on a CPU)")
        return _NO_GPU
    device = torch.device("cpu" if options.cpu else "cuda")
    amount = QUICK if options.quick else FULL
    if options.quick:
        torch.set_num_threads(1)  # on a busy machine threads that wait for each other take minutes
    print(describe_machine())
    print(describe_versions("torch", "timm", "torchvision", "albumentations"))
    print(f"device: {'CPU' if options.cpu else torch.cuda.get_device_name(device)}")
    parts = _list_parts(amount, device)
    rows: dict[str, Row] = {}
    try:
        with _limited(LIMIT_S):
            for name, measure in parts.items():
                start = time.monotonic()
                rows[name] = measure()
                print(f"{name}: took {time.monotonic() - start:.0f} s", flush=True)
    except TimeoutError:
        print(f"stopped after {LIMIT_S} s; not measured: {', '.join([*parts][len(rows) :])}")
    _print_table(rows)
    print(_BANDWIDTH_HINT)
    return 0 if len(rows) == len(parts) else _STOPPED


def _list_parts(amount: Amount, device: torch.device) -> dict[str, Callable[[], Row]]:
    """Return what is measured by name, in this order: what the time must reach comes first."""
    precisions: tuple[Precision, ...] = ("fp32", "bf16")
    training = {
        f"training at {size} px": _training(amount, device, size) for size in amount.training
    }
    scoring = {
        f"scoring at {amount.size_px} px, {one}": _scoring(amount, device, one)
        for one in precisions
    }
    return training | scoring | {f"batches at {amount.size_px} px": _batches(amount, device)}


def _training(amount: Amount, device: torch.device, size_px: int) -> Callable[[], Row]:
    def measure() -> Row:
        batch_size = amount.training_batch[size_px]
        bench = TrainingBench(
            amount.parameters(size_px, batch_size), device, amount.training[size_px],
            amount.rounds,
            plain_batch_sizes=(batch_size // 4, batch_size),
            plain_workers=(min(_MAX_WORKERS, count_cores()),),
        )  # fmt: skip
        result = compare_training(bench)
        print_result(**result)
        return _row(result, "ours_per_s", "plain_per_s", "ratio")

    return measure


def _scoring(amount: Amount, device: torch.device, precision: Precision) -> Callable[[], Row]:
    def measure() -> Row:
        params = amount.parameters(amount.size_px, amount.scoring_batch)
        bench = ScoringBench(
            params.model.backbones, device, amount.size_px, amount.scoring, amount.scoring_batch,
            precision, amount.rounds,
        )  # fmt: skip
        result = compare_scoring(bench)
        print_result(**result)
        return _row(result, "ours", "peer", "ratio")

    return measure


def _batches(amount: Amount, device: torch.device) -> Callable[[], Row]:
    def measure() -> Row:
        params = amount.parameters(amount.size_px, amount.batch_size)
        bench = BatchesBench(
            params, device, None, amount.size_px, amount.batch_size, amount.batches,
            steps=amount.batches, rounds=amount.rounds,
        )  # fmt: skip
        result = compare_batches(bench)
        print_result(**result)
        workers = count_workers(device)
        print(f"training takes {workers} workers here; the table's row is theirs")
        return _row(result, f"workers_{workers}", "demand", f"ratio_workers_{workers}")

    return measure


def _row(result: Mapping[str, float | str], ours: str, peer: str, ratio: str) -> Row:
    keys = (ours, peer, ratio, f"{ratio}_min", f"{ratio}_max")
    return Row(*(float(result[key]) for key in keys))


def _print_table(rows: Mapping[str, Row]) -> None:
    print(f"{'':24}{'ours/s':>10}{'peer/s':>10}{'ratio':>8}  min to max")
    for name, row in rows.items():
        print(
            f"{name:24}{row.ours:10,.0f}{row.peer:10,.0f}{row.ratio:8.2f}  "
            f"{row.ratio_min:.2f} to {row.ratio_max:.2f}"
        )


@contextmanager
def _limited(seconds: int) -> Iterator[None]:
    """Raise TimeoutError in the block when its time is over."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cpu", action="store_true", help="measure the CPU, for want of a GPU")
    parser.add_argument("--quick", action="store_true", help="a few patches: does the code run?")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
