"""Ingest against two peers, in interleaved rounds: `make bench-ingest`.

Peer 1 only reads and decodes: as many processes as its scan finds best, each with its share of the
zip's members, keeping nothing. No ingest with the same decoder can be faster. Peer 2 is the loop of
a notebook: walk the unpacked tree, open with Pillow, stack.

Ours is the whole stage in a process of its own: start of Python, listing, decoding, hashes, quality
flags, writing, report. Peer 1 is timed from the moment its processes have opened the archive;
peer 2 without the time to unpack.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import psutil
from PIL import Image

from benchmarks.measuring import describe_machine, describe_versions, print_result, summarise
from idc.data.ingest.archive import list_members
from idc.runs.workspace import stage_environment
from idc.synthetic import ArchivePlan, create_archive

ROOT = Path(__file__).parents[1]
FULL_SIZE = 277_524
FULL_CASES = 279
SAMPLE_S = 0.2


def main() -> None:
    """Print seconds, rates, memory and ratios of every round; the last line is key=value."""
    options = _parse()
    print(describe_machine())
    print(describe_versions("opencv-python-headless", "numpy", "pillow"))
    with tempfile.TemporaryDirectory(prefix="idc-bench-", dir=options.scratch) as name:
        scratch = Path(name)
        archive = options.archive or _synthesise(scratch, options.patches)
        project = _make_project(scratch, archive)
        members = list_members([archive]).members["path"].tolist()
        tree = _unpack(archive, members, scratch / "tree")
        num_processes = _scan_peer(archive, members)
        _compare(options.rounds, project, archive, members, tree, num_processes)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--archive", type=Path, help="a zip; without it one is made")
    parser.add_argument(
        "--patches", type=int, default=FULL_SIZE, help="in the archive that is made"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--scratch", type=Path, help="where to work (default: the temporary folder)"
    )
    return parser.parse_args()


def _synthesise(scratch: Path, num_patches: int) -> Path:
    archive = scratch / "synthetic.zip"
    start = time.perf_counter()
    create_archive(
        archive,
        ArchivePlan(
            num_cases=max(3, round(FULL_CASES * num_patches / FULL_SIZE)),
            num_patches=num_patches,
            seed=17,
            difficulty="real",
        ),
        num_processes=psutil.cpu_count() or 1,
    )
    print(f"made {num_patches:,} patches, each twice, in {time.perf_counter() - start:.0f} s")
    return archive


def _make_project(scratch: Path, archive: Path) -> Path:
    project = scratch / "project"
    (project / "data/raw").mkdir(parents=True)
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy2(ROOT / name, project)
    (project / "data/raw" / archive.name).symlink_to(archive.resolve())
    return project


def _unpack(archive: Path, members: list[str], tree: Path) -> Path:
    start = time.perf_counter()
    with zipfile.ZipFile(archive) as file:
        file.extractall(tree, members)
    print(f"unpacked {len(members):,} files for the loop in {time.perf_counter() - start:.0f} s")
    return tree


def _scan_peer(archive: Path, members: list[str]) -> int:
    """Return the number of processes with which peer 1 is fastest, on part of the archive."""
    part = members[:: max(1, len(members) // 20_000)]
    rates = {}
    for num_processes in (2, 3, 4):
        seconds = statistics.median(_peer_seconds(archive, part, num_processes) for _ in range(3))
        rates[num_processes] = len(part) / seconds
        print(f"scan: peer 1 with {num_processes} processes, {rates[num_processes]:,.0f} patches/s")
    return max(rates, key=lambda number: rates[number])


def _compare(
    rounds: int, project: Path, archive: Path, members: list[str], tree: Path, num_processes: int
) -> None:
    ours, peer, loop, memory = [], [], [], []
    for number in range(1, rounds + 1):
        seconds, peak = _our_seconds(project)
        ours.append(len(members) / seconds)
        memory.append(peak / 1e6)
        peer.append(len(members) / _peer_seconds(archive, members, num_processes))
        loop.append(len(members) / _loop_seconds(tree))
        print(
            f"round {number}: ours {ours[-1]:,.0f} patches/s, read and decode only "
            f"{peer[-1]:,.0f}, loop {loop[-1]:,.0f}; private memory {memory[-1]:,.0f} MB"
        )
    print_result(
        patches=len(members),
        **summarise("ours", ours),
        peer=statistics.median(peer),
        **summarise("ratio", [a / b for a, b in zip(ours, peer, strict=True)]),
        loop=statistics.median(loop),
        **summarise("ratio_loop", [a / b for a, b in zip(ours, loop, strict=True)]),
        private_mb=max(memory),
    )


def _our_seconds(project: Path) -> tuple[float, int]:
    """Run the stage; return wall seconds and the largest sum of private memory in bytes."""
    shutil.rmtree(project / "data/patches", ignore_errors=True)
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "idc", "ingest"],
        cwd=project,
        env=stage_environment(ROOT),
        stderr=subprocess.DEVNULL,
    )
    peak = 0
    while process.returncode is None:
        peak = max(peak, sum(_private_bytes(process.pid)))
        with suppress(subprocess.TimeoutExpired):
            process.wait(SAMPLE_S)
    seconds = time.perf_counter() - start
    if process.returncode:
        raise SystemExit(f"idc ingest exited with {process.returncode}")
    return seconds, peak


def _private_bytes(root: int) -> Iterator[int]:
    """Yield RssAnon of every process of the tree."""
    try:
        family = [psutil.Process(root), *psutil.Process(root).children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in family:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
        except OSError:
            continue
        for line in status.splitlines():
            if line.startswith("RssAnon:"):
                yield int(line.split()[1]) * 1024


def _peer_seconds(archive: Path, members: list[str], num_processes: int) -> float:
    shares = [members[start::num_processes] for start in range(num_processes)]
    with ProcessPoolExecutor(
        num_processes, get_context("spawn"), initializer=_open_peer, initargs=(archive,)
    ) as pool:
        list(pool.map(_decode_members, [[]] * (4 * num_processes)))  # all have opened the archive
        start = time.perf_counter()
        decoded = sum(pool.map(_decode_members, shares))
        seconds = time.perf_counter() - start
    assert decoded == len(members)
    return seconds


def _open_peer(archive: Path) -> None:
    global _peer_archive
    cv2.setNumThreads(1)
    _peer_archive = zipfile.ZipFile(archive)
    time.sleep(0.5)  # so that no process takes the warm-up jobs of another


_peer_archive: zipfile.ZipFile


def _decode_members(members: list[str]) -> int:
    decoded = 0
    for member in members:
        content = np.frombuffer(_peer_archive.read(member), np.uint8)
        decoded += cv2.imdecode(content, cv2.IMREAD_COLOR_RGB) is not None
    return decoded


def _loop_seconds(tree: Path) -> float:
    start = time.perf_counter()
    patches = []
    for path in sorted(tree.rglob("*.png")):
        pixels = np.asarray(Image.open(path))
        if pixels.shape == (50, 50, 3):
            patches.append(pixels)
    stacked = np.stack(patches)
    assert len(stacked) > 0
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
