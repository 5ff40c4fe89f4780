"""Commands about model versions: `promote`, `rollback`, `drift`, `lineage`, `reproduce`."""

import argparse
from collections.abc import Callable
from pathlib import Path

from idc.cli.command import EXIT_DIFFERENT, Commands, add_command
from idc.core import layout
from idc.core.config import Params, load_params


def add_commands(commands: Commands) -> None:
    """Add the commands of this group."""
    promote = _add(
        commands, "promote", _promote, what="make the challenger champion if it is better"
    )
    promote.add_argument("--dry-run", action="store_true", help="decide, but move nothing")
    _add(commands, "rollback", _rollback, what="return to the champion before")
    _add(commands, "drift", _drift, what="compare the archive with what the champion learnt from")
    for name, run, what in (
        ("lineage", _trace, "say what a model version comes from"),
        ("reproduce", _reproduce, "make a model version again and compare its predictions"),
    ):
        _add(commands, name, run, what=what).add_argument("version", help="number, such as 3")


def _add(
    commands: Commands,
    name: str,
    run: Callable[[Params, argparse.Namespace], int],
    *,
    what: str,
) -> argparse.ArgumentParser:
    """Add a command that is given the parameters, checked before anything slow is imported."""
    return add_command(
        commands, name, lambda options: run(load_params(layout.PARAMS), options), what=what
    )


def _promote(params: Params, options: argparse.Namespace) -> int:
    from idc.lifecycle.promotion.promote import promote

    outcome = promote(Path.cwd(), params, dry_run=options.dry_run)
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


def _rollback(params: Params, _: argparse.Namespace) -> int:
    from idc.lifecycle.promotion.promote import rollback

    before, now = rollback(Path.cwd(), params)
    print(f"{params.publish.model_name} version {now} is the champion again, not {before}")
    return 0


def _drift(params: Params, _: argparse.Namespace) -> int:
    from idc.lifecycle.intake import write_drift_report

    report = write_drift_report(Path.cwd(), params)
    if report is None:
        return 0
    drifted = ", ".join(report["drifted"]) or "nothing"
    print(
        f"{report['num_new_cases']} new and {report['num_changed_cases']} changed cases, "
        f"{report['num_patches']} patches; beyond its limit: {drifted} ({layout.DRIFT})"
    )
    return 0


def _trace(params: Params, options: argparse.Namespace) -> int:
    from idc.lifecycle.reproduction.chain import trace

    for link in trace(Path.cwd(), params, options.version):
        print(link)
    return 0


def _reproduce(params: Params, options: argparse.Namespace) -> int:
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
    return 0 if found.reproduced else EXIT_DIFFERENT
