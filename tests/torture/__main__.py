"""Disturbs the smallest pipeline at random moments, and holds what `dvc repro` then makes of it
against an undisturbed run: `python -m tests.torture --kill 60`.

Each trial is drawn from the seed and its number alone, so it can be repeated by them; the moment of
a fault still depends on the machine. Trials that are in the file of results are not done again.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from idc.core.files import load_json, save_json
from tests.operations.servers import Service, free_port, mlflow_server
from tests.torture.faults import FAULTS, Run
from tests.torture.findings import examine
from tests.torture.place import STORE, Place, list_processes

_ENDS_S = 900  # a run that takes longer hangs
_ORPHANS_S = 40  # a group's leader takes 9 s, Prefect's own grace is 30 s
_FLOW_SHARE = 0.15
_DISK_MB = 192
_START_S = {"dvc": 6.0, "idc": 25.0}  # until the first is seen


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the campaign; return 1 if anything was found."""
    options = _parse(arguments)
    place = Place(options.folder.resolve())
    place.folder.mkdir(parents=True, exist_ok=True)
    timing = place.folder / "seconds.json"
    if not timing.exists():
        save_json(timing, place.make_reference())
    seconds = load_json(timing) | {f"start {name}": s for name, s in _START_S.items()}
    wanted = [(kind, number) for kind in FAULTS for number in range(1, getattr(options, kind) + 1)]
    results = place.folder / "trials.jsonl"
    done = {(item["kind"], item["number"]): item for item in _load(results)}
    for kind, number in wanted:
        if (kind, number) in done:
            continue
        outcome = run_trial(place, kind, number, seed=options.seed, seconds=seconds)
        done[kind, number] = outcome
        with results.open("a") as file:
            file.write(json.dumps(outcome) + "\n")
        print(_describe(outcome), flush=True)
    return _summarise([done[key] for key in wanted])


def run_trial(
    place: Place, kind: str, number: int, *, seed: int, seconds: dict[str, float]
) -> dict[str, Any]:
    """Disturb one run, finish by `dvc repro`, and say what was found; `seconds` learns from it."""
    began = time.monotonic()
    for attempt in range(20):  # a run may have ended before its moment came
        draw = random.Random(f"{seed} {kind} {number} {attempt}")
        stages = [name for name in seconds if not name.startswith("start")]
        (stage,) = draw.choices(stages, [seconds[name] for name in stages])
        flow = draw.random() < _FLOW_SHARE
        command = ("idc", "pipeline") if flow else ("dvc", "repro")
        with ExitStack() as stack:
            if kind == "full":
                stack.enter_context(_own_disk(place))
            place.restore(stage)
            said, found = _disturb(place, kind, draw, command=command, stage=stage, seconds=seconds)
            if not said:
                continue
            found += _finish(place, kind)
        return {
            "kind": kind, "number": number, "seed": seed, "attempt": attempt,
            "command": " ".join(command), "stage": stage, "what": said, "found": found,
            "took_s": round(time.monotonic() - began),
        }  # fmt: skip
    raise RuntimeError(f"{kind} {number}: no run was long enough")


def _disturb(
    place: Place,
    kind: str,
    draw: random.Random,
    *,
    command: tuple[str, ...],
    stage: str,
    seconds: dict[str, float],
) -> tuple[str, list[str]]:
    """Return what was done to a run, and which processes it left."""
    mark, log = f"{place.folder} disturbed", place.folder / "disturbed.log"
    log.write_bytes(b"")
    own = seconds | {"start": seconds[f"start {command[0]}"]}
    with _store(place, kind) as (server, store):
        process = place.start(mark, log, *command, **store)
        run = Run(place, mark, command, stage, log, own, process, server)
        with ExitStack() as stack:
            said = FAULTS[kind](run, draw, stack)
            _learn(run, seconds)
            found = _wait(process)
        found += _end_orphans(mark)
    return said, found


def _learn(run: Run, seconds: dict[str, float]) -> None:
    """Take the start's length from this run, where the stage has begun."""
    # the machine may be busier than it was: moments follow it
    if run.stage_began is not None:
        seconds[f"start {run.command[0]}"] = run.stage_began


def _wait(process: subprocess.Popen[bytes]) -> list[str]:
    try:
        process.wait(_ENDS_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return [f"the disturbed run hung for {_ENDS_S} s"]
    return []


def _end_orphans(mark: str) -> list[str]:
    """Wait for the rest of a run that has ended; return what is still there, and end it."""
    deadline = time.monotonic() + _ORPHANS_S
    while (left := list(list_processes(mark))) and time.monotonic() < deadline:
        time.sleep(0.3)
    found = [f"orphan: {' '.join(process.cmdline())[:200]}" for process in left]
    for process in left:
        process.kill()
    return found


def _finish(place: Place, kind: str) -> list[str]:
    """Finish by `dvc repro`; return what it leaves that should not be."""
    mark, log = f"{place.folder} repeated", place.folder / "repeated.log"
    log.write_bytes(b"")
    with _store(place, kind) as (_, store):
        code = place.run(mark, log, "dvc", "repro", **store)
        if code:  # `make repro` begins with the check
            place.run(mark, log, "idc", "check", **store)
            code = place.run(mark, log, "dvc", "repro", **store)
    if code:
        return [f"dvc repro ended with {code}: {log.read_text(errors='replace')[-1500:]}"]
    return _end_orphans(mark) + examine(place)


@contextmanager
def _store(place: Place, kind: str) -> Iterator[tuple[Service | None, dict[str, str]]]:
    """Run a tracking server on the project's own store, for trials in which it goes away.

    Yields:
        The server and the variable that names it.
    """
    if kind != "away":
        yield None, {}
        return
    port = free_port()
    with mlflow_server(
        place.folder / "server", f"sqlite:///{place.project / STORE}", port
    ) as service:
        yield service, {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}"}


@contextmanager
def _own_disk(place: Place) -> Iterator[None]:
    """Mount a small file system where the project lies; needs root."""
    size = f"size={_DISK_MB}m"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "torture", str(place.disk)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place.disk)], check=True)


def _load(results: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in results.open()] if results.exists() else []


def _describe(outcome: dict[str, Any]) -> str:
    found = "; ".join(outcome["found"]) or "as undisturbed"
    return (
        f"{outcome['kind']} {outcome['number']}: {outcome['command']} at {outcome['stage']}, "
        f"{outcome['what']}: {found} ({outcome['took_s']} s)"
    )


def _summarise(outcomes: list[dict[str, Any]]) -> int:
    for kind in FAULTS:
        mine = [item for item in outcomes if item["kind"] == kind]
        bad = [item["number"] for item in mine if item["found"]]
        if mine:
            print(f"{kind}: {len(mine)} trials, {len(bad)} with findings {bad or ''}")
    return int(any(item["found"] for item in outcomes))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    for kind, fault in FAULTS.items():
        parser.add_argument(f"--{kind}", type=int, default=0, metavar="N", help=fault.__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()) / "idc-torture",
        help="where it works and keeps the results",
    )  # fmt: skip
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
