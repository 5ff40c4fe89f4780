"""Commands about model versions: promotion, drift, where they come from, making them again."""

import argparse
import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from idc.cli.command import EXIT_FAILED, Command, Group, print_json
from idc.core import layout

if TYPE_CHECKING:
    from idc.core.config import Params

log = logging.getLogger(__name__)


def _with_params(
    run: Callable[["Params", argparse.Namespace], int],
) -> Callable[[argparse.Namespace], int]:
    """Give a command the parameters, checked before anything slow is imported."""

    def run_with(options: argparse.Namespace) -> int:
        from idc.core.config import load_params

        return run(load_params(layout.PARAMS), options)

    return run_with


def _add_version(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("version", help="its number in the registry, such as 3")


def _add_promote(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="decide, but move nothing")


def _add_adopt(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("tag", help="such as idc-run/1234567890ab")


def _promote(params: "Params", options: argparse.Namespace) -> int:
    from idc.lifecycle.promotion.promote import promote

    outcome = promote(Path.cwd(), params, dry_run=options.dry_run)
    if options.json:
        print_json(outcome.content | {"promoted": outcome.promoted})
        return 0
    for reason in outcome.content["reasons"]:
        print(f"{'holds' if reason['holds'] else 'FAILS'}  {reason['rule']}: {reason['text']}")
    for warning in outcome.content["warnings"]:
        print(f"warning: {warning}")
    version = outcome.content["challenger"]["version"]
    if options.dry_run:
        verdict = "would be promoted" if outcome.content["promote"] else "would not be promoted"
    else:
        verdict = "is the champion now" if outcome.promoted else "is not promoted"
    print(f"{outcome.content['model']} version {version} {verdict} ({layout.DECISION})")
    return 0


def _rollback(params: "Params", _: argparse.Namespace) -> int:
    from idc.lifecycle.promotion.promote import rollback

    before, now = rollback(Path.cwd(), params)
    print(f"{params.publish.model_name} version {now} is the champion again, not {before}")
    return 0


def _drift(params: "Params", options: argparse.Namespace) -> int:
    from idc.lifecycle.intake import write_drift_report

    report = write_drift_report(Path.cwd(), params)
    if options.json:
        print_json(report)
        return 0
    if report is None:
        return 0
    drifted = ", ".join(report["drifted"]) or "nothing"
    print(
        f"{report['num_new_cases']} new and {report['num_changed_cases']} changed cases, "
        f"{report['num_patches']} patches; beyond its limit: {drifted} ({layout.DRIFT})"
    )
    return 0


def _trace(params: "Params", options: argparse.Namespace) -> int:
    from idc.lifecycle.reproduction.chain import trace

    links = trace(Path.cwd(), params, options.version)
    if options.json:
        print_json({"links": [asdict(link) for link in links]})
        return 0
    for link in links:
        print(link)
    return 0


def _reproduce(params: "Params", options: argparse.Namespace) -> int:
    from idc.lifecycle.reproduction.rebuild import reproduce

    found = reproduce(Path.cwd(), params, options.version)
    for name, (recorded, present) in found.different.items():
        print(f"{name}: {recorded} when it was trained, {present} here")
    bits = "every bit agrees" if found.bit_equal else "not bit for bit"
    print(
        f"{found.num_patches} patches: {bits}, largest logit difference "
        f"{found.max_logit_difference:.3g}"
    )
    verdict = "is reproduced" if found.reproduced else "is NOT reproduced"
    print(f"{params.publish.model_name} version {options.version} {verdict}")
    return 0 if found.reproduced else EXIT_FAILED


def _adopt(options: argparse.Namespace) -> int:
    from idc.runs.adoption import adopt_run

    adopted = adopt_run(Path.cwd(), options.tag)
    print(f"{options.tag} is in the branch as {adopted.commit[:12]}; `make repro` brings its files")
    if adopted.changed_code:
        print(
            f"the branch's code differs from the run's in {', '.join(adopted.changed_code)}: "
            f"what reads it runs again; `git diff {options.tag} -- src`"
        )
    if adopted.changed_raw:
        print("the branch's raw pointers are not the run's: ingest runs again, on today's data")
    return 0


_REGISTRY = "the registry and its runs in MLflow"

GROUP = Group(
    "Models",
    (
        Command(
            "promote",
            "make the challenger the champion, if it is better on the gate cases",
            _with_params(_promote),
            reads=f"params.yaml, data/splits.csv, data/patches, {_REGISTRY}",
            writes="reports/decision.json, the promotion log, the alias champion",
            add_arguments=_add_promote,
            json=True,
        ),
        Command(
            "rollback",
            "return to the champion before",
            _with_params(_rollback),
            reads=_REGISTRY,
            writes="the promotion log, the alias champion",
        ),
        Command(
            "drift",
            "compare the archive with what the champion learnt from",
            _with_params(_drift),
            reads=f"data/patches, the champion's profile, {_REGISTRY}",
            writes="reports/drift.json",
            json=True,
        ),
        Command(
            "lineage",
            "say what a model version comes from: archive, code, run, decisions",
            _with_params(_trace),
            reads=f"{_REGISTRY}, git, data/raw",
            writes="nothing",
            add_arguments=_add_version,
            json=True,
        ),
        Command(
            "reproduce",
            "make a model version again and compare its predictions",
            _with_params(_reproduce),
            reads=f"{_REGISTRY}, git, the DVC cache",
            writes="a workspace below .workspaces/",
            add_arguments=_add_version,
        ),
        Command(
            "adopt",
            "bring a recorded run into the current branch",
            _adopt,
            reads="the tag and the commit of the run",
            writes="params.yaml, dvc.lock, data/case_subsets.csv, raw pointers that the branch "
            "lacks, and a commit of these",
            add_arguments=_add_adopt,
        ),
    ),
)
