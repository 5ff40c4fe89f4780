"""All results -> MLflow: the run, its files and the registered model agree with `dvc.lock`."""

import logging
from pathlib import Path

from idc.core import layout
from idc.core.config import Params
from idc.core.files import load_json, save_json
from idc.models.licences import describe_restricted, list_licences, require_publishable
from idc.models.spec import digest_bundle, load_history, load_spec
from idc.runs.lineage import (
    git_commit,
    load_lock,
    recorded_md5,
    reject_unrecorded_results,
    result_digest,
)
from idc.tracking.publishing import publish_result
from idc.tracking.result import Result

log = logging.getLogger(__name__)

_ARTIFACTS = (
    layout.PARAMS,
    layout.DVC_LOCK,
    layout.SPLITS,  # tells a promotion which cases the model has seen
    layout.PREDICTIONS,  # what a reproduction is held against
    layout.INGEST_REPORT,
    layout.LEAKAGE_REPORT,
    layout.TRAINING_PROFILE,
    layout.METRICS,
    layout.EVALUATION,
    layout.PLOTS,
    layout.CASES,
    layout.FIGURES,
    layout.EXPLAIN,
    layout.REPORT_PAGE,
    layout.MODEL_CARD,
)


def run(params: Params) -> None:
    """Reconcile MLflow with the files; calling it again changes nothing.

    Raises:
        InputError: If a result is missing or not what `dvc.lock` records, or a licence forbids it.
        StoreUnavailableError: If the tracking server does not answer.
    """
    root = Path.cwd()
    stages = load_lock(root)
    reject_unrecorded_results(root, stages)
    model_digest = digest_bundle(layout.BUNDLE)
    spec = load_spec(layout.BUNDLE)
    licences = list_licences(spec)
    require_publishable(licences, params.publish.forbid_licences)
    if said := describe_restricted(licences):
        log.warning("%s", said)
    published = publish_result(
        Result(
            digest=result_digest(stages),
            model_digest=model_digest,
            commit=git_commit(root),
            params=params,
            num_training_patches=(spec.num_training_patches[0], spec.num_training_patches[1]),
            figures={
                **load_json(layout.METRICS),
                **_leakage_figures(),
                **_explanation_times(model_digest),
                "class_weights/0": spec.class_weights[0],
                "class_weights/1": spec.class_weights[1],
            },
            evaluation=load_json(layout.EVALUATION),
            scores=load_json(layout.EXPLAIN_SCORES) if layout.EXPLAIN_SCORES.exists() else None,
            history=load_history(layout.BUNDLE),
            raw_digest=recorded_md5(stages, "ingest", str(layout.RAW)),
            manifest_digest=recorded_md5(stages, "sample", str(layout.MANIFEST)),
            artifacts={path.name: path for path in _artifacts()},
            model_card=layout.MODEL_CARD.read_text(encoding="utf-8"),
            bundle=layout.BUNDLE,
            operating_point=layout.OPERATING_POINT,
        ),
        root,
    )
    content = {
        "result_digest": result_digest(stages),
        "run_id": published.run_id,
        "model_name": published.model_name,
        "model_version": published.model_version,
    }
    if not layout.PUBLISHED.exists() or load_json(layout.PUBLISHED) != content:
        save_json(layout.PUBLISHED, content)
    log.info(
        "MLflow run %s, model %s version %s",
        published.run_id, published.model_name, published.model_version,
    )  # fmt: skip


def _explanation_times(model_digest: str) -> dict[str, float]:
    """Return seconds per patch of each method; none where explain came back from the cache.

    They stand in no output of a stage, which would differ from run to run.
    """
    times = load_json(layout.EXPLAIN_TIMES) if layout.EXPLAIN_TIMES.exists() else {}
    if times.get("model_digest") != model_digest:
        return {}
    return {f"explain/s_per_patch/{name}": s for name, s in times["seconds_per_patch"].items()}


def _artifacts() -> tuple[Path, ...]:
    """Return the files for MLflow, with what was uncommitted in a workspace's code."""
    uncommitted = (layout.UNCOMMITTED,) if layout.UNCOMMITTED.exists() else ()
    return _ARTIFACTS + uncommitted


def _leakage_figures() -> dict[str, float]:
    leakage = load_json(layout.LEAKAGE_REPORT)
    counts = ("num_shared_cases", "num_exact_duplicates", "num_near_duplicates")
    shares = leakage["share_touching_train"]
    return {f"leakage/{name}": float(leakage[name]) for name in counts} | {
        f"leakage/share_{subset}_touching_train": share for subset, share in shares.items()
    }
