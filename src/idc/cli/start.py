"""Commands to begin with: `demo`, `synth`, `doctor`, `check`."""

import argparse
import logging
import sys
from dataclasses import asdict
from pathlib import Path

from idc.cli import synth, weights
from idc.cli.command import EXIT_FAILED, Command, Group, print_json
from idc.core import layout

# a server whose disk is full answers 500, and MLflow would try again for four minutes
_SOON = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}
# as `probe_store` does; the experiment stays, and the deleted run
_TRIED = (
    "on a tracking server the experiment, a run with a file that it deletes, an alias of the "
    "model that it removes"
)

log = logging.getLogger(__name__)


def _demo(_: argparse.Namespace) -> int:
    from idc.ops.demo import run_demo

    demo = run_demo(Path.cwd())
    print(f"\nreport:  {demo.report}")
    print(f"MLflow:  {sys.executable} -m mlflow ui --backend-store-uri {demo.store}")
    value, low, high = demo.auroc
    print(
        f"test AUROC {value:.3f} [{low:.3f}, {high:.3f}], colour baseline {demo.colour_auroc:.3f}"
    )
    value, low, high = demo.difference
    difference = f"difference in AUROC {value:+.3f} [{low:+.3f}, {high:+.3f}]"
    if demo.beats_colour:
        print(f"{difference}: the network is above the colour baseline")
        return 0
    print(f"{difference}: not shown to be above 0, so the demo failed", file=sys.stderr)
    return EXIT_FAILED


def _doctor(options: argparse.Namespace) -> int:
    from idc.core.config import load_params
    from idc.ops.doctor import examine

    findings = examine(load_params(layout.PARAMS), Path.cwd())
    if options.json:
        print_json({"findings": [asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            print(f"{finding.state:8} {finding.what}: {finding.said}")
            if finding.fix:
                print(f"{'':8}   -> {finding.fix}")
    return EXIT_FAILED if any(finding.state == "missing" for finding in findings) else 0


def _check(options: argparse.Namespace) -> int:
    from idc.core.config import load_params
    from idc.ops.inputs import require_inputs
    from idc.runs.killed_dvc import remove_empty_entries, remove_torn_locks

    remove_empty_entries(Path.cwd())
    remove_torn_locks(Path.cwd())
    require_inputs(load_params(layout.PARAMS), Path.cwd(), publishes=not options.no_publish)
    if options.json:
        print_json({"ok": True})
    else:
        log.info("git, archive, store, weights, cache and disk are as a run needs them")
    return 0


def _add_check_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--no-publish",
        action="store_true",
        help="of an experiment: no model is published, so no licence of weights forbids it",
    )


GROUP = Group(
    "Start",
    (
        Command(
            "demo",
            "run the whole pipeline on a synthetic archive, in a copy of the project",
            _demo,
            reads="configs/demo.yaml, params.yaml; no data, network or server of yours",
            writes=".workspaces/demo: the report, an MLflow store, all that a run leaves",
            details="Fails where the network is not shown to beat the colour baseline.",
        ),
        synth.COMMAND,
        Command(
            "doctor",
            "say what is missing or wrong, with the command that fixes it",
            _doctor,
            reads="params.yaml, data/raw, the stores, caches and servers that are named",
            writes=f"nothing; {_TRIED}",
            details="Ends with 1 where something is missing that a run needs.",
            json=True,
            environment=_SOON,
        ),
        Command(
            "check",
            "try what a run needs: git, archive, store, weights, cache, disk",
            _check,
            reads="params.yaml, data/raw, the MLflow store, DVC's cache",
            writes=f"in .dvc and DVC's cache it removes what a killed DVC left; {_TRIED}",
            details="Removes what a killed DVC left half made: a torn list of its locks, empty "
            "entries of its run cache.",
            add_arguments=_add_check_arguments,
            json=True,
            environment=_SOON,
        ),
        weights.COMMAND,
    ),
)
