"""Years of scheduled retrainings in an hour: what grows, and whether it stays level at the end.

A small clone of the last commit gets services of its own (`idc up`, on free ports, with a Prefect
home of its own) and the deployment `retraining/local` is started again and again, as its weekly
schedule would: mostly with nothing new, and now and then with a further zip of new cases in
`data/raw`. Before each such zip `idc gc --yes` runs, as a monthly job would. After every run are
recorded

- memory: resident, of server, worker and MLflow's UI, each with the processes it started;
- disk: the clone without the raw data, and apart from it workspaces, `.idc`, DVC's cache, MLflow's
  store and Prefect's home;
- rows: of Prefect's flow runs, logs and events, and of MLflow's runs;
- seconds of wall time and of processor time.

So that what is removed with age is removed within the hour, each run makes Prefect's database a
week older (the end of every run and the time of every event are moved back by seven days), and the
vacuum looks every minute instead of every hour. The periods themselves are the deployed ones: 90
days for runs, 7 for events. `idc gc` keeps the last three runs, of any age.

With `--told` nothing runs: the server is told of runs, their states and logs, which shows what
it keeps of many of them within minutes.

    python -m benchmarks.soak
    python -m benchmarks.soak --nothing-new 30 --new-data 2 --minutes 20
    python -m benchmarks.soak --told
    python -m benchmarks.soak --draw soak.csv
"""

import argparse
import csv
import json
import os
import shlex
import shutil
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from benchmarks.measuring import describe_machine, describe_versions, print_result
from idc.core.files import load_json
from idc.core.layout import PARAMS, RAW, STATE
from idc.figures.style import (
    PALETTE,
    name_beside,
    new_figure,
    save_figure,
    set_labels,
    style_axes,
)
from idc.runs.workspace import WORKSPACES, override_params, stage_environment
from idc.synthetic import ArchivePlan, create_archive
from tests.small_run import SMALL

ROOT = Path(__file__).parents[1]
OVERRIDES: dict[str, Any] = SMALL | {
    "split.fractions": {"val": 0.2, "gate": 0.3, "test": 0.2},
    "promotion.first_balanced_accuracy": 0.0,
}
FIRST_CASES, FURTHER_CASES, PATCHES_PER_CASE = 16, 2, 16
GC = ("gc", "--yes", "--days", "0", "--last", "3", "--cache")
SERVICES = ("prefect-server", "worker", "mlflow")
POLL_S = 1.0
LOG_LINES = 9  # of a run with nothing new
PATIENCE_S = 1200.0  # for one run on a busy machine
SETTINGS = {
    "PREFECT_SERVER_SERVICES_DB_VACUUM_LOOP_SECONDS": "60",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ORPHAN_CLEANUP_LOOP_SECONDS": "300",
    "PREFECT_WORKER_QUERY_SECONDS": "2",  # else it looks for runs every 10 s
    "OMP_NUM_THREADS": "1",
    "CI": "1",  # else DVC may ask its makers' server for the newest version
}
_AGE = "strftime('%Y-%m-%d %H:%M:%f000', {0}, '-7 days')"  # as Prefect writes a time
_AGED = (("flow_run", "end_time"), ("events", "occurred"), ("event_resources", "occurred"))
_ROWS = {
    "flow_runs": "flow_run", "task_runs": "task_run", "logs": "log", "events": "events",
    "event_resources": "event_resources", "artifacts": "artifact",
}  # fmt: skip


class Clone:
    """A small clone with services of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder / "clone", folder / "prefect"
        _git(folder, "clone", "--quiet", str(ROOT), str(self.folder))
        override_params(self.folder / PARAMS, OVERRIDES)
        _git(self.folder, "commit", "--quiet", "--all", "--message", "tiny")
        (self.folder / RAW).mkdir(parents=True, exist_ok=True)
        ports = _free_ports()
        self.api = f"http://127.0.0.1:{ports[0]}/api"
        kept = {k: v for k, v in stage_environment(self.folder).items() if "MLFLOW_T" not in k}
        self._environment = kept | SETTINGS | {
            "PREFECT_HOME": str(self.home),
            "PREFECT_SERVER_API_PORT": str(ports[0]),
            "PREFECT_API_URL": self.api,
            "MLFLOW_PORT": str(ports[1]),
        }  # fmt: skip

    def idc(self, *arguments: str) -> str:
        """Run a command of `idc` in the clone and return what it printed.

        Raises:
            SystemExit: If it fails.
        """
        done = subprocess.run(
            [sys.executable, "-m", "idc", *arguments],
            cwd=self.folder, env=self._environment, capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"idc {shlex.join(arguments)}: {(done.stdout + done.stderr)[-2000:]}")
        return done.stdout + done.stderr

    def ask(self, path: str, body: Any = None) -> Any:  # noqa: ANN401
        """Return an answer of the clone's Prefect server, which may be too busy at first."""
        request = urllib.request.Request(  # noqa: S310  on this machine, by http
            self.api + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        for attempt in range(10):
            try:
                with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310
                    return json.loads(answer.read() or "null")
            except OSError as error:
                print(f"{path}: {error} ({attempt})", flush=True)
                time.sleep(2 * POLL_S)
        raise SystemExit(f"{path}: no answer")

    def retrain(self) -> str:
        """Run the deployment and return the message it ended with.

        Raises:
            SystemExit: If it does not complete.
        """
        deployment = self.ask("/deployments/name/retraining/local")["id"]
        run = self.ask(
            f"/deployments/{deployment}/create_flow_run", {"state": {"type": "SCHEDULED"}}
        )
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            state = self.ask(f"/flow_runs/{run['id']}")["state"]
            if state["type"] == "COMPLETED":
                self._wait_for_the_process(deadline)
                return str(state["message"])
            if state["type"] in ("FAILED", "CRASHED", "CANCELLED"):
                break
            time.sleep(POLL_S)
        raise SystemExit(f"run {run['name']} is {state['type']}: {state['message']}")

    def tell(self) -> str:
        """Tell the server of a retraining with nothing new that does not run: states and a log."""
        deployment = self.ask("/deployments/name/retraining/local")
        run = {"flow_id": deployment["flow_id"], "deployment_id": deployment["id"]}
        name = self.ask("/flow_runs/", run | {"state": {"type": "PENDING"}})["id"]
        for state in ("RUNNING", "COMPLETED"):
            self.ask(f"/flow_runs/{name}/set_state", {"state": {"type": state}, "force": True})
        line = {"name": "prefect.flow_runs", "level": 20, "message": "told", "flow_run_id": name}
        now = datetime.now(UTC).isoformat()
        self.ask("/logs/", [line | {"timestamp": now}] * LOG_LINES)
        return "told"

    def _wait_for_the_process(self, deadline: float) -> None:
        """Wait until the run's process has ended, some seconds after its state."""
        worker = psutil.Process(self._pid("worker"))
        while worker.children() and time.monotonic() < deadline:
            time.sleep(POLL_S)

    def age(self) -> None:
        """Make Prefect's database a week older."""
        with closing(sqlite3.connect(self.home / "prefect.db", timeout=60)) as database, database:
            for table, column in _AGED:
                database.execute(f"UPDATE {table} SET {column} = {_AGE.format(column)}")  # noqa: S608

    def measure(self) -> dict[str, float]:
        """Return memory in MB, disk in MB, rows, and the processor seconds of finished runs."""
        memory = {f"{name}_mb": self._memory_mb(name) for name in SERVICES}
        places = {
            "workspaces": WORKSPACES, "state": STATE, "cache": Path(".dvc/cache"),
            "store": Path("mlruns"), "git": Path(".git"),
        }  # fmt: skip
        disk = {f"{name}_mb": _size_mb(self.folder / place) for name, place in places.items()}
        clone = _size_mb(self.folder) - _size_mb(self.folder / RAW)
        disk |= {"clone_mb": clone, "prefect_home_mb": _size_mb(self.home)}
        disk["service_logs_mb"] = _size_mb(self.folder / ".idc/services")
        rows = {f"{name}_rows": self._count(_ROWS[name]) for name in _ROWS}
        with closing(sqlite3.connect(self.folder / "mlruns/mlflow.db", timeout=60)) as store:
            rows["mlflow_rows"] = sum(
                store.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608
                for table in ("runs", "metrics", "params", "tags", "model_versions")
            )
        return memory | disk | rows | {"cpu_s": self.finished_cpu_s()}

    def _memory_mb(self, service: str) -> float:
        members = [psutil.Process(self._pid(service))]
        members += members[0].children(recursive=True)
        total = 0
        for member in members:
            try:
                total += member.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        return total / 1e6

    def finished_cpu_s(self) -> float:
        """Return the processor seconds of the runs that have ended."""
        times = psutil.Process(self._pid("worker")).cpu_times()
        return float(times.children_user + times.children_system)

    def _pid(self, service: str) -> int:
        return int(load_json(self.folder / f".idc/services/{service}.json")["process"]["pid"])

    def _count(self, table: str) -> int:
        with closing(sqlite3.connect(self.home / "prefect.db", timeout=60)) as database:
            return int(database.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608


def main(arguments: Sequence[str] | None = None) -> None:
    """Soak, write a row per run, draw them, and print the result line last."""
    options = _parse(arguments)
    if options.draw is None:
        print(describe_machine())
        print(describe_versions("prefect", "dvc", "mlflow", "idc"))
        given = sys.argv[1:] if arguments is None else arguments
        print("command: python -m benchmarks.soak", shlex.join(given), flush=True)
        _soak(options)
    rows = _load_rows(options.draw or options.out)
    draw(rows, (options.draw or options.out).with_suffix(".png"))
    print_result(**_summarise(rows))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.soak", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--nothing-new", type=int, default=300, help="runs (default: 300)")
    parser.add_argument("--new-data", type=int, default=20, help="runs (default: 20)")
    parser.add_argument("--minutes", type=float, default=600, help="start no run after so many")
    parser.add_argument(
        "--told", action="store_true", help="only tell the server of runs; a hundred times faster"
    )
    parser.add_argument("--out", type=Path, default=Path("soak.csv"), help="default: soak.csv")
    parser.add_argument("--draw", type=Path, help="only draw the rows of an earlier soak")
    return parser.parse_args(arguments)


def _soak(options: argparse.Namespace) -> None:
    out, deadline = options.out.resolve(), time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory(prefix="idc-soak-") as name, out.open("w") as file:
        folder = Path(name).resolve()
        zips = _make_zips(folder / "zips", options.new_data)
        with _running(folder) as clone:
            known = clone.finished_cpu_s()
            writer: csv.DictWriter[str] | None = None
            for number, is_new in enumerate(_order(options.nothing_new, options.new_data)):
                if time.monotonic() > deadline:
                    break
                if is_new and not options.told:
                    if number:
                        clone.idc(*GC)
                    shutil.copy2(zips.pop(0), clone.folder / RAW)
                start = time.monotonic()
                message = clone.tell() if options.told else clone.retrain()
                seconds = time.monotonic() - start
                clone.age()
                row: dict[str, Any] = {"run": number, "new_data": int(is_new), "wall_s": seconds}
                row |= clone.measure()
                row["cpu_s"], known = row["cpu_s"] - known, row["cpu_s"]
                if writer is None:
                    writer = csv.DictWriter(file, row)
                    writer.writeheader()
                writer.writerow({key: round(value, 3) for key, value in row.items()})
                file.flush()
                print(f"{number} {seconds:.0f} s: {message}", flush=True)


@contextmanager
def _running(folder: Path) -> Iterator[Clone]:
    clone = Clone(folder)
    try:
        clone.idc("up")
        yield clone
    finally:
        clone.idc("down")


def _order(nothing_new: int, new_data: int) -> list[bool]:
    """Return which run finds new data: the first, and others evenly spread."""
    total = nothing_new + new_data
    starts = {total * k // new_data for k in range(new_data)}
    return [number in starts for number in range(total)]


def _make_zips(folder: Path, number: int) -> list[Path]:
    """Write zips of different cases, the first of more of them."""
    folder.mkdir()
    num_cases = FIRST_CASES + FURTHER_CASES * (number - 1)
    create_archive(
        folder / "whole.zip",
        ArchivePlan(num_cases=num_cases, patches_per_case=PATCHES_PER_CASE, seed=1),
    )
    with zipfile.ZipFile(folder / "whole.zip") as whole:
        by_case: dict[str, list[str]] = {}
        for name in whole.namelist():
            by_case.setdefault(Path(name).name.partition("_")[0], []).append(name)
        cases = sorted(by_case)
        made: list[Path] = []
        while cases:
            taken = FURTHER_CASES if made else FIRST_CASES
            made.append(folder / f"part-{len(made):02}.zip")
            with zipfile.ZipFile(made[-1], "w") as part:
                for name in (name for case in cases[:taken] for name in by_case[case]):
                    part.writestr(name, whole.read(name))
            del cases[:taken]
    return made


def draw(rows: Sequence[dict[str, float]], path: Path) -> None:
    """Draw memory, disk, rows and seconds against the number of the run."""
    panels = {
        "Memory of the services [MB]": {
            "prefect-server_mb": "Prefect server", "worker_mb": "worker", "mlflow_mb": "MLflow UI",
        },
        "Disk [MB]": {
            "workspaces_mb": "workspaces", "cache_mb": "DVC cache", "store_mb": "MLflow store",
            "prefect_home_mb": "Prefect home", "git_mb": "git", "state_mb": ".idc",
        },
        "Rows": {
            "flow_runs_rows": "Prefect runs", "logs_rows": "Prefect logs",
            "events_rows": "Prefect events", "task_runs_rows": "Prefect tasks",
            "mlflow_rows": "MLflow",
        },
    }  # fmt: skip
    timed = any(row["cpu_s"] for row in rows)  # not where the server was only told of runs
    height = len(panels) + timed
    figure = new_figure(10, 2.75 * height)
    figures = figure.subplots(height, 1, sharex=True)
    runs = [row["run"] for row in rows]
    for axes, (title, lines) in zip(figures, panels.items(), strict=False):
        for colour, (key, label) in zip(PALETTE, lines.items(), strict=False):
            if any(row[key] for row in rows):
                axes.plot(runs, [row[key] for row in rows], color=colour, label=label)
        _finish(axes, title)
    if timed:
        axes = figures[-1]
        for colour, is_new, label in ((PALETTE[0], 0, "nothing new"), (PALETTE[1], 1, "new data")):
            chosen = [row for row in rows if row["new_data"] == is_new]
            x, y = [row["run"] for row in chosen], [row["cpu_s"] for row in chosen]
            axes.plot(x, y, ".", color=colour, markersize=5, label=label)
        _finish(axes, "Processor seconds per run")
    figures[-1].set_xlabel("retraining", fontsize=9.5)
    figures[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    save_figure(figure, path)


def _finish(axes: Axes, title: str) -> None:
    style_axes(axes)
    set_labels(axes, title, "", "")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    name_beside(axes)


def _load_rows(path: Path) -> list[dict[str, float]]:
    with path.open(encoding="utf-8", newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def _summarise(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return medians over the second and the last third of the runs with nothing new."""
    quiet = [row for row in rows if not row["new_data"]]
    middle, last = quiet[len(quiet) // 3 : 2 * len(quiet) // 3], quiet[2 * len(quiet) // 3 :]
    summary: dict[str, float] = {"nothing_new": len(quiet), "new_data": len(rows) - len(quiet)}
    for key in (key for key in rows[0] if key not in ("run", "new_data")):
        for name, part in (("middle", middle), ("end", last)):
            summary[f"{key}_{name}"] = statistics.median(row[key] for row in part)
    return summary


def _size_mb(folder: Path) -> float:
    """Return the disk space of the files below, counting hard links once."""
    sizes: dict[tuple[int, int], int] = {}
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                status = (Path(place) / name).lstat()
            except FileNotFoundError:
                continue
            sizes[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sum(sizes.values()) / 1e6


def _free_ports() -> tuple[int, int]:
    with socket.socket() as first, socket.socket() as second:
        for probe in (first, second):
            probe.bind(("127.0.0.1", 0))
        return first.getsockname()[1], second.getsockname()[1]


def _git(folder: Path, *arguments: str) -> None:
    subprocess.run(
        ["git", "-c", "user.name=soak", "-c", "user.email=soak@example.org", *arguments],
        cwd=folder, check=True,
    )  # fmt: skip


if __name__ == "__main__":
    main()
