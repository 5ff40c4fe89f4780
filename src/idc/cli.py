"""The `idc` command: one sub-command per stage, and what goes with them.

Imports of a stage happen when it runs, so that `idc sample --help` does not load torch.
"""

import argparse
import importlib
import logging
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import idc
from idc import layout
from idc.config import Params, load_params
from idc.doctor import check_inputs, examine
from idc.errors import InputError, StoreAwayError
from idc.plan import plan_run
from idc.runs import Retention, adopt_run, cache_command, find_garbage, remove_garbage
from idc.stages import STAGES

EXIT_DIFFERENT = 1

if TYPE_CHECKING:
    from idc.data.synthetic import Shortcut

EXIT_INPUT = 2
EXIT_AWAY = 75  # EX_TEMPFAIL of sysexits.h: the same command may succeed later

log = logging.getLogger("idc")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one sub-command; return the exit code.

    0 done, 1 something is missing or could not be reproduced, 2 wrong input, 75 try again.
    """
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    try:
        return _run(options)
    except InputError as error:
        for line in str(error).splitlines():
            print(f"idc {options.command}: error: {line}", file=sys.stderr)
        return EXIT_INPUT
    except StoreAwayError as error:
        print(f"idc {options.command}: try again: {error}", file=sys.stderr)
        return EXIT_AWAY


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="idc", description=idc.__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for stage in STAGES:
        commands.add_parser(stage, help=f"run the stage {stage} (dvc repro does, when it must)")
    commands.add_parser("check", help="say what is missing before anything runs")
    commands.add_parser("plan", help="say what a run would do, and why")
    commands.add_parser("doctor", help="say what is missing, with the command that mends it")
    adopt = commands.add_parser("adopt", help="bring a recorded run into the current branch")
    adopt.add_argument("tag", help="such as idc-run/1234567890ab")
    _add_gc(commands)
    backup = commands.add_parser(
        "backup", help="copy the local MLflow store, even while runs write"
    )
    backup.add_argument("folder", type=Path, help="a folder that does not exist yet")
    commands.add_parser("relocate", help="mend the MLflow store of a moved or restored clone")
    _add_synth(commands)
    _add_registry(commands)
    return parser


def _add_gc(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    rule = Retention()
    gc = commands.add_parser(
        "gc",
        help="list, or with --yes remove, workspaces and tags of old runs",
        description="A run stays if it is younger than --days, among the --last ones, in use, or "
        "if an alias of a registered model points at it.",
    )
    gc.add_argument("--days", type=float, default=rule.days, help=f"default: {rule.days:.0f}")
    gc.add_argument("--last", type=int, default=rule.last, help=f"default: {rule.last}")
    gc.add_argument("--yes", action="store_true", help="remove them; without it they are listed")


def _add_registry(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    promote = commands.add_parser("promote", help="make the challenger champion if it is better")
    promote.add_argument("--dry-run", action="store_true", help="decide, but move nothing")
    commands.add_parser("rollback", help="return to the champion before")
    commands.add_parser("drift", help="compare the archive with what the champion learnt from")
    for name, what in (
        ("lineage", "say what a model version comes from"),
        ("reproduce", "make a model version again and compare its predictions"),
    ):
        commands.add_parser(name, help=what).add_argument("version", help="number, such as 3")


def _add_synth(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    synth = commands.add_parser("synth", help="write a synthetic archive, to try things with")
    synth.add_argument("archive", type=Path, help="the zip to write")
    synth.add_argument("--cases", type=int, default=30, help="cases (default: 30)")
    size = synth.add_mutually_exclusive_group()
    size.add_argument("--patches-per-case", type=int, help="mean (default: 100)")
    size.add_argument(
        "--patches", type=int, help="total; the public archive has 277524 of 279 cases"
    )
    synth.add_argument(
        "--difficulty",
        choices=("texture", "real"),
        default="texture",
        help="texture (default): colour tells little; real: statistics of the public archive",
    )
    synth.add_argument(
        "--null", action="store_true", help="labels that nothing in the pixels tells"
    )
    synth.add_argument(
        "--shortcut",
        choices=("stain", "pad", "ink"),
        help="plant a cue that goes with the label: a haze, a grey edge or a pen stroke",
    )
    synth.add_argument(
        "--cue-share-positive", type=float, help="share of IDC+ with the cue (default: 0.9)"
    )
    synth.add_argument(
        "--cue-share-negative", type=float, help="share of IDC- with the cue (default: 0.05)"
    )
    synth.add_argument("--seed", type=int, default=17, help="seed (default: 17)")
    synth.add_argument(
        "--masks", type=Path, help="new folder for masks of tumour nests and cue, outside data/raw"
    )


def _run(options: argparse.Namespace) -> int:
    if options.command == "synth":
        _synthesise(options)
        return 0
    _require_own_code()
    if options.command in _OPERATIONS:
        return _OPERATIONS[options.command](options)
    params = load_params(layout.PARAMS)
    if options.command in _REGISTRY:
        return _REGISTRY[options.command](params, options)
    importlib.import_module(f"idc.stages.{options.command}").run(params)
    return 0


def _check(options: argparse.Namespace) -> int:
    check_inputs(load_params(layout.PARAMS), Path.cwd())
    log.info("archive, store and weights are there")
    return 0


def _plan(options: argparse.Namespace) -> int:
    for stage in plan_run(Path.cwd()):
        if stage.restorable:
            print(
                f"{stage.name:9} comes back from the cache, else runs: {'; '.join(stage.reasons)}"
            )
        elif stage.reasons:
            print(f"{stage.name:9} runs: {'; '.join(stage.reasons)}")
        elif stage.after:
            print(f"{stage.name:9} runs if what it reads changes: after {', '.join(stage.after)}")
        else:
            print(f"{stage.name:9} up to date")
    return 0


def _doctor(options: argparse.Namespace) -> int:
    findings = examine(load_params(layout.PARAMS), Path.cwd())
    for finding in findings:
        print(f"{finding.state:8} {finding.what}: {finding.said}")
        if finding.mend:
            print(f"{'':8}   -> {finding.mend}")
    return int(any(finding.state == "missing" for finding in findings))


def _adopt(options: argparse.Namespace) -> int:
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


def _gc(options: argparse.Namespace) -> int:
    from idc.tracking.orphans import close_runs, list_orphans
    from idc.tracking.registry import list_aliased_digests

    root = Path.cwd()
    rule = Retention(options.days, options.last)
    garbage = find_garbage(root, rule, list_aliased_digests(root))
    orphans = list_orphans(root)
    if options.yes:
        remove_garbage(root, garbage, on_removed=lambda what: print(f"removed {what}"))
        close_runs(root, orphans)
    else:
        for workspace in garbage.workspaces:
            print(f"would remove {workspace.folder.relative_to(root)} ({workspace.opened:%F})")
        for tag in garbage.tags:
            print(f"would remove {tag}")
    for run_id in orphans:
        print(f"{'closed' if options.yes else 'would close'} MLflow run {run_id}: its process died")
    if not options.yes and (garbage.workspaces or garbage.tags or orphans):
        print("nothing was removed: add --yes")
    print("frees the cache (first with --dry): " + shlex.join(cache_command(root, garbage)))
    return 0


def _back_up(options: argparse.Namespace) -> int:
    from idc.store import back_up_store

    back_up_store(_local_store(), options.folder)
    log.info("%s holds the store", options.folder)
    return 0


def _relocate(options: argparse.Namespace) -> int:
    from idc.store import relocate_store

    store = _local_store()
    outdated = relocate_store(store)
    if outdated:
        log.info("files are looked for in %s, no longer in %s", store, ", ".join(outdated))
    else:
        log.info("nothing to mend: files are looked for in %s", store)
    return 0


def _local_store() -> Path:
    from idc.tracking.connection import local_database, shown_uri

    path = local_database(Path.cwd())
    if path is None:
        raise InputError(
            f"the store is {shown_uri(Path.cwd())}: back it up where its server runs, see "
            "docs/operations.md"
        )
    return path.parent


_OPERATIONS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "check": _check,
    "plan": _plan,
    "doctor": _doctor,
    "adopt": _adopt,
    "gc": _gc,
    "backup": _back_up,
    "relocate": _relocate,
}


def _synthesise(options: argparse.Namespace) -> None:
    from idc.data.synthetic import create_archive
    from idc.processes import count_cores

    if options.masks is not None and _lies_in(options.masks, layout.RAW):
        raise InputError(
            f"--masks {options.masks}: ingest would read it as patches: name a folder outside "
            f"{layout.RAW}"
        )
    per_case = options.patches_per_case
    if per_case is None and options.patches is None:
        per_case = 100
    create_archive(
        options.archive,
        num_cases=options.cases,
        patches_per_case=per_case,
        num_patches=options.patches,
        seed=options.seed,
        difficulty=options.difficulty,
        null=options.null,
        shortcut=_shortcut(options),
        masks=options.masks,
        num_processes=count_cores(),
    )
    log.info("%s written", options.archive)


def _lies_in(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _shortcut(options: argparse.Namespace) -> "Shortcut | None":
    from idc.data.synthetic import Shortcut

    shares = {
        name: share
        for name in ("share_positive", "share_negative")
        if (share := getattr(options, f"cue_{name}")) is not None
    }
    if options.shortcut is not None:
        return Shortcut(options.shortcut, **shares)
    if shares:
        raise InputError("--cue-share-positive, --cue-share-negative: --shortcut is missing")
    return None


def _require_own_code() -> None:
    """Refuse to serve a `dvc.yaml` with another checkout's code, as an editable install would."""
    if not layout.DVC_FILE.is_file():
        raise InputError(f"{layout.DVC_FILE} is not here: run from the project's root")
    code = Path(idc.__file__).resolve()
    own = Path("src/idc").resolve()
    if own.is_dir() and own not in code.parents:
        raise InputError(
            f"the code of {code.parent} would run on {own}: set PYTHONPATH={own.parent}"
        )


def _promote(params: Params, options: argparse.Namespace) -> int:
    from idc.promotion.promote import promote

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
    from idc.promotion.promote import rollback

    before, now = rollback(Path.cwd(), params)
    print(f"{params.publish.model_name} version {now} is the champion again, not {before}")
    return 0


def _drift(params: Params, _: argparse.Namespace) -> int:
    from idc.intake import report_drift

    report = report_drift(Path.cwd(), params)
    if report is None:
        return 0
    drifted = ", ".join(report["drifted"]) or "nothing"
    print(
        f"{report['num_new_cases']} new and {report['num_changed_cases']} changed cases, "
        f"{report['num_patches']} patches; beyond its limit: {drifted} ({layout.DRIFT})"
    )
    return 0


def _trace(params: Params, options: argparse.Namespace) -> int:
    from idc.reproduction.chain import trace

    for link in trace(Path.cwd(), params, options.version):
        print(link)
    return 0


def _reproduce(params: Params, options: argparse.Namespace) -> int:
    from idc.reproduction.rebuild import reproduce

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


_REGISTRY: Mapping[str, Callable[[Params, argparse.Namespace], int]] = {
    "promote": _promote,
    "rollback": _rollback,
    "drift": _drift,
    "lineage": _trace,
    "reproduce": _reproduce,
}
