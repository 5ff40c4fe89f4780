"""The `idc` command: one sub-command per stage, `check` before them, `synth` for trying things.

Imports of a stage happen when it runs, so that `idc sample --help` does not load torch.
"""

import argparse
import importlib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import idc
from idc import layout
from idc.config import Params, load_params
from idc.errors import InputError, StoreAwayError
from idc.stages import STAGES

EXIT_INPUT = 2
EXIT_AWAY = 75  # EX_TEMPFAIL of sysexits.h: the same command may succeed later

log = logging.getLogger("idc")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one sub-command; return the exit code (0 done, 2 wrong input, 75 try again)."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    try:
        _run(options)
    except InputError as error:
        for line in str(error).splitlines():
            print(f"idc {options.command}: error: {line}", file=sys.stderr)
        return EXIT_INPUT
    except StoreAwayError as error:
        print(f"idc {options.command}: try again: {error}", file=sys.stderr)
        return EXIT_AWAY
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="idc", description=idc.__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for stage in STAGES:
        commands.add_parser(stage, help=f"run the stage {stage} (dvc repro does, when it must)")
    commands.add_parser("check", help="say what is missing before anything runs")
    backup = commands.add_parser(
        "backup", help="copy the local MLflow store, even while runs write"
    )
    backup.add_argument("folder", type=Path, help="a folder that does not exist yet")
    commands.add_parser("relocate", help="mend the MLflow store of a moved or restored clone")
    _add_synth(commands)
    return parser


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


def _run(options: argparse.Namespace) -> None:
    if options.command == "synth":
        _synthesise(options)
        return
    _require_own_code()
    if options.command == "backup":
        _back_up(options.folder)
        return
    if options.command == "relocate":
        _relocate()
        return
    params = load_params(layout.PARAMS)
    if options.command == "check":
        _check(params)
        return
    importlib.import_module(f"idc.stages.{options.command}").run(params)


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


def _back_up(folder: Path) -> None:
    from idc.store import back_up_store

    back_up_store(_local_store(), folder)
    log.info("%s holds the store", folder)


def _relocate() -> None:
    from idc.store import relocate_store

    store = _local_store()
    outdated = relocate_store(store)
    if outdated:
        log.info("files are looked for in %s, no longer in %s", store, ", ".join(outdated))
    else:
        log.info("nothing to mend: files are looked for in %s", store)


def _local_store() -> Path:
    from idc.tracking import shown_uri, tracking_uri

    uri = tracking_uri(Path.cwd())
    if not uri.startswith("sqlite:///"):
        raise InputError(
            f"the store is {shown_uri(Path.cwd())}: back it up where its server runs, see "
            "docs/operations.md"
        )
    return Path(uri.removeprefix("sqlite:///")).parent


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


def _check(params: Params) -> None:
    from idc.data.archive import find_sources

    find_sources(layout.RAW)
    from idc.tracking import check_store

    check_store(Path.cwd())
    if not _already_trained(params):
        from idc.models.backbones import require_weights

        require_weights(params.model.backbones, params.model.pretrained)
    log.info("archive, store and weights are there")


def _already_trained(params: Params) -> bool:
    """Say whether the recorded model was built from these weights: then none are needed."""
    from idc.lineage import load_lock

    if not layout.DVC_LOCK.exists():
        return False
    train = load_lock(Path.cwd()).get("train", {})
    recorded = train.get("params", {}).get(str(layout.PARAMS), {}).get("model")
    return bool(recorded == params.model.model_dump(mode="json"))
