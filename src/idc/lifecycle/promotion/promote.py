"""Compare challenger and champion now, decide, and move the alias; or undo a promotion.

The log records the intention before the alias moves, and the completion after. If the command is
interrupted in between, the alias is at the old or at the new champion; the next call finds the open
entry and closes it according to where the alias is.
"""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from idc.core import layout
from idc.core.config import Params, PromotionConfig
from idc.core.errors import InputError
from idc.core.files import save_json
from idc.data.patches import load_pixels
from idc.data.tables import SPLITS_SCHEMA, load_table
from idc.evaluation.statistics.bootstrap import Bootstrap
from idc.lifecycle.promotion.decision import Decision, Reason, decide
from idc.lifecycle.promotion.gate import Gate, GateScores, reject_seen_cases, score_gate, take_gate
from idc.lifecycle.promotion.log import count_looks, find_unfinished, former_champions
from idc.tracking.registry import Registry, Version, name_models

log = logging.getLogger(__name__)

MAX_LOOKS = 20
"""Decisions on one gate before a warning: by then the probability that a model that is no better
has been promoted is up to 1 - .975^20 = .4."""

_TEST_FIGURES = ("auroc", "balanced_accuracy", "sensitivity", "specificity", "brier")


@dataclass(frozen=True)
class Outcome:
    """The result of `promote`."""

    promoted: bool
    champion: str | None
    """Version that is champion now; None if there is none."""
    content: dict[str, Any]
    """The content of `decision.json`."""


@dataclass(frozen=True)
class _Comparison:
    """Two models that were scored on one gate; only one if there is no champion."""

    gate: Gate
    champion: Version | None
    challenger: Version
    digests: dict[str, str]
    """Digest of the gate when it was scored, by version."""


def promote(root: Path, params: Params, *, dry_run: bool) -> Outcome:
    """Score champion and challenger on today's gate and move the alias if the rules hold.

    Args:
        root: The project; its `data/splits.csv` and pixels are today's.
        params: Margins, the name of the model, the device.
        dry_run: Decide and log the look at the gate, but move nothing.

    Returns:
        The decision; also in `reports/decision.json` and in the promotion log.

    Raises:
        InputError: If there is no challenger, the gate is unusable, a model has seen one of
            its cases or has no record of what it has seen, or the champion changed meanwhile.
        StoreUnavailableError: If a tracking server does not answer.
    """
    registry = Registry(root, params)
    repair_log(registry)
    champion, challenger = registry.champion(), registry.challenger()
    if champion is not None and champion.version == challenger.version:
        return _nothing_to_decide(root, challenger)
    gate = take_gate(
        load_table(root / layout.SPLITS, SPLITS_SCHEMA), load_pixels(root / layout.PIXELS)
    )
    for version in filter(None, (champion, challenger)):
        reject_seen_cases(gate.cases, _load_splits(registry, version), str(version))
    scored = {
        version.version: _score(registry, version, gate, params)
        for version in (champion, challenger)
        if version is not None
    }
    digests = {version: digest for version, (_, digest) in scored.items()}
    if len(set(digests.values())) > 1:
        raise InputError("the gate's patches changed while they were scored: run again")
    decision = decide(
        gate.y_true,
        gate.patches["case"].to_numpy(),
        None if champion is None else scored[champion.version][0],
        scored[challenger.version][0],
        params.promotion,
        Bootstrap(params.evaluate.num_replicates, params.seeds.statistics),
    )
    content = _describe(
        registry, _Comparison(gate, champion, challenger, digests), decision, params.promotion
    )
    content["dry_run"] = dry_run
    save_json(root / layout.DECISION, content)
    moves = decision.promote and not dry_run
    _reject_moved_champion(registry, champion)
    entry = registry.log_decision(
        "promote" if moves else "dry-run" if dry_run else "keep",
        before=champion,
        version=challenger,
        content=content,
        gate_digest=digests[challenger.version],
        gate_cases=gate.cases,
    )
    if moves:
        registry.move_champion(challenger)
    registry.close_decision(entry)
    now = challenger if moves else champion
    return Outcome(moves, None if now is None else now.version, content)


def rollback(root: Path, params: Params) -> tuple[str | None, str]:
    """Return to the previous champion, and log it; return both versions, the replaced one first.

    Raises:
        InputError: If the log has no earlier champion, or the registry lacks it.
        StoreUnavailableError: If a tracking server does not answer.
    """
    registry = Registry(root, params)
    repair_log(registry)
    now = registry.champion()
    champions = former_champions(registry.entries())
    if champions and now is not None and champions[-1] == now.version:
        champions.pop()
    if not champions:
        raise InputError("the promotion log knows no earlier champion to return to")
    version = registry.load(champions[-1])
    entry = registry.log_decision(
        "rollback", before=now, version=version, content={"version": version.version}
    )
    registry.move_champion(version)
    registry.close_decision(entry)
    return (None if now is None else now.version), version.version


def repair_log(registry: Registry) -> None:
    """Close interrupted log entries according to where the alias is."""
    for entry in find_unfinished(registry.entries()):
        now = registry.champion()
        moves = entry.kind in ("promote", "rollback")
        done = not moves or (now is not None and now.version == entry.version)
        registry.close_decision(entry.run_id, "done" if done else "interrupted")
        log.warning(
            "the log's entry `%s %s` was interrupted: the alias %s moved",
            entry.kind, entry.version, "had" if done and moves else "had not",
        )  # fmt: skip


def _nothing_to_decide(root: Path, champion: Version) -> Outcome:
    reason = Reason("nothing to decide", False, f"{champion} is the champion already")
    content = {
        "model": champion.name,
        "challenger": {"version": champion.version},
        "promote": False,
        "reasons": [asdict(reason)],
        "warnings": [],
    }
    save_json(root / layout.DECISION, content)
    return Outcome(False, champion.version, content)


def _load_splits(registry: Registry, version: Version) -> pd.DataFrame:
    with registry.run_file(version, layout.SPLITS.name) as path:
        if path is None:
            raise InputError(
                f"{version} does not say which cases it learnt from ({layout.SPLITS.name} is "
                f"missing in its run {version.run_id}): run `idc publish` where its results lie"
            )
        return load_table(path, SPLITS_SCHEMA)


def _score(
    registry: Registry, version: Version, gate: Gate, params: Params
) -> tuple[GateScores, str]:
    """Score the gate, and say which patches were scored."""
    log.info("%s scores %d gate patches", version, len(gate.patches))
    with registry.files(version) as (bundle, operating_point):
        scored = score_gate(gate, bundle, operating_point, params.runtime)
    return scored, gate.digest()


def _reject_moved_champion(registry: Registry, champion: Version | None) -> None:
    if registry.champion() != champion:
        raise InputError("the champion changed while models were compared: run again")


def _describe(
    registry: Registry, compared: _Comparison, decision: Decision, config: PromotionConfig
) -> dict[str, Any]:
    """Return the content of `decision.json`."""
    champion, challenger, digests = compared.champion, compared.challenger, compared.digests
    looks = count_looks(
        registry.entries(),
        compared.gate.cases,
        models=name_models(champion, challenger),
        gate_digest=digests[challenger.version],
    )
    warnings = []
    if looks > MAX_LOOKS:
        warnings.append(
            f"{looks} comparisons have looked at this gate, more than {MAX_LOOKS}: it wears out; "
            "bring gate cases that are new"
        )
    return {
        "model": challenger.name,
        "challenger": _describe_version(registry, challenger, digests),
        "champion": None if champion is None else _describe_version(registry, champion, digests),
        "promote": decision.promote,
        "reasons": [asdict(reason) for reason in decision.reasons],
        "figures": decision.figures,
        "looks": looks,
        "warnings": warnings,
        "params": config.model_dump(mode="json"),
    }


def _describe_version(
    registry: Registry, version: Version, digests: dict[str, str]
) -> dict[str, Any]:
    run = registry.run(version)
    metrics = {} if run is None else run.data.metrics
    return {
        "version": version.version,
        "result_digest": version.result_digest,
        "model_digest": version.model_digest,
        "git_commit": version.commit,
        "gate_digest": digests[version.version],
        # for information: each on the test set of its own split, and never part of the decision
        "test": {
            key: metrics[f"test/{key}"]
            for name in _TEST_FIGURES
            for key in (name, f"{name}_low", f"{name}_high")
            if f"test/{key}" in metrics
        },
    }
