"""What every benchmark needs: the machine in a line, interleaved rounds, a result line."""

import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import psutil

from idc.core.processes import count_cores


def describe_machine() -> str:
    """Return CPU model, usable cores, memory, load and system in one line."""
    memory_gib = psutil.virtual_memory().total / 2**30
    load = psutil.getloadavg()[0]
    return (
        f"{_cpu_model()}, {count_cores()} cores, {memory_gib:.1f} GiB, load {load:.1f}, "
        f"{platform.platform(terse=True)}"
    )


def describe_versions(*packages: str) -> str:
    """Return Python's version and those of installed packages in one line."""
    return ", ".join(
        [f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in packages)]
    )


def interleave(rounds: int, tasks: Mapping[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Time every task once per round, so that a slow minute of the machine meets all of them.

    Args:
        rounds: How often each task runs.
        tasks: What to time, by name. Every second round goes through them backwards.

    Returns:
        Wall seconds of each round, by name.
    """
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for number in range(rounds):
        names = list(tasks)
        for name in names if number % 2 == 0 else reversed(names):
            start = time.perf_counter()
            tasks[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def summarise(name: str, values: Sequence[float]) -> dict[str, float]:
    """Return the median as `<name>` with `<name>_min` and `<name>_max`, for `print_result`."""
    return {
        name: statistics.median(values),
        f"{name}_min": min(values),
        f"{name}_max": max(values),
    }


def print_result(**values: float | str) -> None:
    """Print `key=value` pairs on one line, numbers with four significant digits."""
    print(
        " ".join(
            f"{key}={value if isinstance(value, str) else format(value, '.4g')}"
            for key, value in values.items()
        ),
        flush=True,
    )


def _cpu_model() -> str:
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text(encoding="utf-8").splitlines() if facts.exists() else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())
