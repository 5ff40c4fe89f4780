"""The `idc` command: one sub-command per stage, `check` before them, `synth` for trying things.

Imports of a stage happen when it runs, so that `idc sample --help` does not load torch.
"""

import argparse
import importlib
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import idc
from idc import layout
from idc.config import Params, load_params
from idc.errors import InputError, StoreAwayError
from idc.stages import STAGES

EXIT_DIFFERENT = 1
EXIT_INPUT = 2
EXIT_AWAY = 75  # EX_TEMPFAIL of sysexits.h: the same command may succeed later

log = logging.getLogger("idc")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one sub-command; return the exit code.

    0 done, 1 a model could not be reproduced, 2 wrong input, 75 try again.
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
    _add_synth(commands)
    _add_registry(commands)
    return parser


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
    synth.add_argument("--seed", type=int, default=17, help="seed (default: 17)")
    synth.add_argument("--masks", type=Path, help="folder for masks of the tumour nests")


def _run(options: argparse.Namespace) -> int:
    if options.command == "synth":
        _synthesise(options)
        return 0
    _require_own_code()
    params = load_params(layout.PARAMS)
    if options.command in _COMMANDS:
        return _COMMANDS[options.command](params, options)
    importlib.import_module(f"idc.stages.{options.command}").run(params)
    return 0


def _synthesise(options: argparse.Namespace) -> None:
    from idc.data.synthetic import create_archive
    from idc.processes import count_cores

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
        masks=options.masks,
        num_processes=count_cores(),
    )
    log.info("%s written", options.archive)


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


def _check(params: Params, _: argparse.Namespace) -> int:
    from idc.data.archive import find_sources

    find_sources(layout.RAW)
    from idc.tracking import check_store

    check_store(Path.cwd())
    if not _already_trained(params):
        from idc.models.backbones import require_weights

        require_weights(params.model.backbones, params.model.pretrained)
    log.info("archive, store and weights are there")
    return 0


def _already_trained(params: Params) -> bool:
    """Say whether the recorded model was built from these weights: then none are needed."""
    from idc.lineage import load_lock

    if not layout.DVC_LOCK.exists():
        return False
    train = load_lock(Path.cwd()).get("train", {})
    recorded = train.get("params", {}).get(str(layout.PARAMS), {}).get("model")
    return bool(recorded == params.model.model_dump(mode="json"))


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


_COMMANDS: dict[str, Callable[[Params, argparse.Namespace], int]] = {
    "check": _check,
    "promote": _promote,
    "rollback": _rollback,
    "drift": _drift,
    "lineage": _trace,
    "reproduce": _reproduce,
}
