"""How long DVC takes to see that nothing changed, at the size of the public archive.

Ours: one zip added with `dvc add`, and the outputs of ingest, sample and split. The peer
is the naive layout: the same patches as single files, tracked by `dvc add` of their folder. Both
are timed as whole processes, with warm file caches, and both must report that all is up to date.

    python -m benchmarks.dvc_noop                                       # full size, synthetic
    python -m benchmarks.dvc_noop --archive archive.zip /big/disk/noop  # the public archive
    python -m benchmarks.dvc_noop --cases 20 --patches-per-case 100     # to try it

At full size it needs about 15 GB of disk; the peer's `dvc add` takes most of the preparation.
"""

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from benchmarks.measuring import (
    describe_machine,
    describe_versions,
    interleave,
    print_result,
    summarise,
)
from idc.runs.workspace import override_params, stage_environment

ROOT = Path(__file__).parents[1]
TARGET_S = 5.0
LEAST_ROUNDS = 3
STAGES = ("ingest", "sample", "split")
UP_TO_DATE = "Data and pipelines are up to date"

_PARTS = (
    "src/idc", "data/case_lists", "data/label_overrides.csv", ".dvc/config", ".dvc/.gitignore",
    ".dvcignore", ".gitignore", "dvc.yaml", "params.yaml",
)  # fmt: skip


@dataclass(frozen=True)
class Repository:
    """A git repository with a DVC of its own, and the environment for commands in it."""

    folder: Path

    def run(self, *command: str) -> str:
        """Run a command here and return what it printed.

        Raises:
            SystemExit: If the command fails.
        """
        environment = stage_environment(self.folder) | {
            "DVC_SITE_CACHE_DIR": str(self.folder / ".dvc/tmp/site"),
            "CI": "1",  # else DVC may ask its makers' server for the newest version
        }
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True
        )
        output = done.stdout + done.stderr
        if done.returncode:
            raise SystemExit(f"{shlex.join(command)} exited {done.returncode}:\n{output[-2000:]}")
        return output

    def dvc(self, *arguments: str) -> str:
        """Run `dvc` and return what it printed."""
        return self.run(sys.executable, "-m", "dvc", *arguments)

    def find_unchanged(self, *arguments: str) -> None:
        """Run a `dvc` command that must find nothing to do.

        Raises:
            SystemExit: If it finds anything.
        """
        output = self.dvc(*arguments)
        if UP_TO_DATE not in output:
            raise SystemExit(f"dvc {shlex.join(arguments)} found something to do:\n{output}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Prepare both layouts, time them and print the result line last."""
    options = _parse(arguments)
    print(describe_machine())
    print(describe_versions("dvc", "dvc-data", "idc"))
    given = sys.argv[1:] if arguments is None else arguments
    print("command: python -m benchmarks.dvc_noop", shlex.join(given))
    if options.folder is not None:
        _measure(options, options.folder.resolve())
        return
    with tempfile.TemporaryDirectory(prefix="idc-dvc-noop-") as name:
        _measure(options, Path(name).resolve())


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.dvc_noop", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("folder", type=Path, nargs="?", help="new or empty (default: temporary)")
    parser.add_argument("--archive", type=Path, help="a zip to use instead of a synthetic one")
    parser.add_argument("--cases", type=int, default=279, help="synthetic cases (default: 279)")
    parser.add_argument(
        "--patches-per-case", type=int, default=947, help="so many make 277,524 in all, about"
    )
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds (default: 5)")
    options = parser.parse_args(arguments)
    if options.rounds < LEAST_ROUNDS:
        parser.error(f"--rounds {options.rounds}: at least {LEAST_ROUNDS} are needed")
    if options.folder is not None and options.folder.exists() and any(options.folder.iterdir()):
        parser.error(f"{options.folder} is not empty: name a new folder")
    if options.archive is not None and not options.archive.is_file():
        parser.error(f"--archive {options.archive}: there is no such file")
    return options


def _measure(options: argparse.Namespace, folder: Path) -> None:
    ours, num_patches = _prepare_ours(options, folder / "ours")
    peer = _prepare_peer(next((ours.folder / "data/raw").glob("*.zip")), folder / "peer")
    tasks = {
        "ours": lambda: ours.find_unchanged("status", *STAGES),
        "repro": lambda: ours.find_unchanged("repro", "split"),
        "peer": lambda: peer.find_unchanged("status"),
    }
    _print_rounds("first round, not counted", interleave(1, tasks))
    seconds = interleave(options.rounds, tasks)
    _print_rounds(f"{options.rounds} rounds", seconds)
    ratios = [there / here for there, here in zip(seconds["peer"], seconds["ours"], strict=True)]
    print_result(
        **summarise("ours", seconds["ours"]),
        **summarise("peer", seconds["peer"]),
        **summarise("ratio", ratios),
        **summarise("repro", seconds["repro"]),
        patches=str(num_patches),
        rounds=str(options.rounds),
        target_s=TARGET_S,
    )


def _prepare_ours(options: argparse.Namespace, folder: Path) -> tuple[Repository, int]:
    """Copy the project, add the archive, run the stages; return it with the number of patches."""
    _copy_project(folder)
    override_params(folder / "params.yaml", {"sample.allow_fewer": True})
    ours = Repository(folder)
    ours.run("git", "init", "--quiet")
    raw = folder / "data/raw"
    raw.mkdir()
    start = time.perf_counter()
    if options.archive is not None:
        shutil.copy2(options.archive, raw / "archive.zip")
    else:
        size = ("--cases", options.cases, "--patches-per-case", options.patches_per_case)
        ours.run(sys.executable, "-m", "idc", "synth", "data/raw/archive.zip", *map(str, size))
    start = _print_step("archive in data/raw", start)
    ours.dvc("add", "data/raw/archive.zip")
    start = _print_step("ours: dvc add data/raw/archive.zip", start)
    ours.dvc("repro", "split")
    _print_step("ours: dvc repro split", start)
    report = json.loads((folder / "reports/ingest.json").read_text(encoding="utf-8"))
    return ours, int(report["num_patches"])


def _prepare_peer(archive: Path, folder: Path) -> Repository:
    """Unpack each patch of the archive once and add the folder."""
    peer = Repository(folder)
    start = time.perf_counter()
    num_patches = _unpack_once(archive, folder / "patches")
    start = _print_step(f"peer: {num_patches} patches unpacked", start)
    peer.run("git", "init", "--quiet")
    peer.dvc("init", "--quiet")
    shutil.copy2(ROOT / ".dvc/config", folder / ".dvc/config")
    peer.dvc("add", "patches")
    _print_step("peer: dvc add patches", start)
    return peer


def _copy_project(folder: Path) -> None:
    for part in _PARTS:
        source, target = ROOT / part, folder / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, target)


def _unpack_once(archive: Path, folder: Path) -> int:
    """Write `<case>/<0|1>/<name>` for every patch; the archive's nested copies are left out."""
    seen: set[str] = set()
    with zipfile.ZipFile(archive) as members:
        for entry in members.infolist():
            path = PurePosixPath(entry.filename)
            if path.suffix != ".png" or path.name in seen:
                continue
            seen.add(path.name)
            target = folder.joinpath(*path.parts[-3:])
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(members.read(entry))
    return len(seen)


def _print_step(what: str, start: float) -> float:
    now = time.perf_counter()
    print(f"{what}: {now - start:.1f} s", flush=True)
    return now


def _print_rounds(title: str, seconds: dict[str, list[float]]) -> None:
    print(f"{title}, seconds of the whole process:")
    commands = {
        "ours": f"dvc status {' '.join(STAGES)}",
        "repro": "dvc repro split",
        "peer": "dvc status (peer)",
    }
    for name, values in seconds.items():
        print(f"  {commands[name]:32}", "  ".join(f"{value:7.2f}" for value in values), flush=True)


if __name__ == "__main__":
    main()
