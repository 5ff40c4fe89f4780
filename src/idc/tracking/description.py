"""What a run says of itself in words: its tags, and the text on its first page."""

import getpass
from collections.abc import Mapping

from mlflow.utils.mlflow_tags import (
    MLFLOW_GIT_COMMIT,
    MLFLOW_SOURCE_NAME,
    MLFLOW_SOURCE_TYPE,
    MLFLOW_USER,
)

from idc.core.config import Params, short_name
from idc.tracking.result import Result
from idc.tracking.result_tables import ENDS

DATA_TAG = "data_digest"
_DIGITS = 8  # of a digest, as people read it
_DIRTY = "-dirty"
_HEADLINE = {"auroc": "AUROC", "balanced_accuracy": "balanced accuracy"}
_PAGES = {
    "index.html": "report",
    "model_card.md": "model card",
    "splits.csv": "who is on which set",
}


def setup_tags(params: Params, commit: str) -> dict[str, str]:
    """Return the tags that say how a model is trained, from which code, and by whom.

    Args:
        params: Of the run.
        commit: As `idc.runs.lineage.git_commit` returns it.
    """
    model = params.model
    texture = " with texture member" if model.texture_member else ""
    tags = {
        "model": f"fusion CNN{texture}",
        "backbones": " + ".join(map(short_name, model.backbones)),
        "size_px": str(model.size_px),
        "pretrained": str(model.pretrained),
        "split": describe_split(params),
        MLFLOW_SOURCE_NAME: "dvc repro",
        MLFLOW_SOURCE_TYPE: "LOCAL",
        MLFLOW_USER: _user(),
    }
    return tags if commit == "none" else tags | {MLFLOW_GIT_COMMIT: commit.removesuffix(_DIRTY)}


def describe_split(params: Params) -> str:
    """Return how cases are assigned, such as `by case, fold 1 of 5`."""
    split = params.split
    if split.mode == "lists":
        return f"by the lists {split.lists.train}, {split.lists.test}"
    folds = split.folds
    fold = f", fold {folds.test_fold} of {folds.num_folds} on test" if folds else ""
    return f"by {split.mode}{fold}"


def short_digest(digest: str) -> str:
    """Return the digits of a digest that people compare."""
    return digest.removesuffix(".dir")[:_DIGITS]


def _user() -> str:
    """Return who runs this; a container may know no name for its user."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"


def figure(values: Mapping[str, float], key: str, form: str = "{:.3f}") -> str:
    """Return a figure with its interval, such as `0.912 [0.880, 0.940]`; empty if unknown."""
    if key not in values:
        return ""
    value, *ends = (form.format(values[f"{key}{end}"]) for end in ENDS if f"{key}{end}" in values)
    return f"{value} [{', '.join(ends)}]" if ends else value


def describe_run(result: Result, *, experiment_id: str, run_id: str, tables: list[str]) -> str:
    """Return what the first page of a run says, as Markdown: headline, data, and where all lies.

    Args:
        result: What the run shows.
        experiment_id: Of the run's experiment, for the links.
        run_id: Of the run.
        tables: Artifacts that are full tables.
    """
    pages = [*(name for name in _PAGES if name in result.artifacts), *tables]
    place = f"#/experiments/{experiment_id}/runs/{run_id}/artifacts"
    links = " · ".join(f"[{_PAGES.get(name, name)}]({place}/{name})" for name in pages)
    parts = [_headline(result.figures), _comparison(result), _origin(result), links]
    return "\n\n".join(filter(None, parts))


def _headline(figures: Mapping[str, float]) -> str:
    shown = [
        f"{title} **{text}**"
        for key, title in _HEADLINE.items()
        if (text := figure(figures, f"test/{key}"))
    ]
    if "test/num_cases" not in figures:
        return f"Test set: {', '.join(shown)}."
    size = "{test/num_cases:.0f} cases, {test/num_patches:,.0f} patches".format(**figures)
    return f"Test set ({size}): {', '.join(shown)}. Intervals: 95 %, over cases."


def _comparison(result: Result) -> str:
    """Say whether the fusion beats its members, and by how much it beats each other scoring."""
    ablation = result.evaluation["ablation"]
    titles = {member["name"]: member["title"] for member in ablation["members"]}
    rows = [
        f"| {titles.get(name, name).replace('_', ' ')} | {_member(result, name)} | "
        f"{'{value:+.3f} [{low:+.3f}, {high:+.3f}]'.format(**metrics['auroc'])} |"
        for name, metrics in ablation["differences"].items()
    ]
    if not rows:
        return ""
    head = "| compared with | its AUROC on test | difference in AUROC |\n|---|---|---|\n"
    return f"{ablation['text']}\n\n{head}" + "\n".join(rows)


def _member(result: Result, name: str) -> str:
    return figure(result.figures, f"test_{name}/auroc")


def _origin(result: Result) -> str:
    model, (negative, positive) = result.params.model, result.num_training_patches
    weights = "from scratch" if model.pretrained == "none" else f"from {model.pretrained} weights"
    manifest, digest = short_digest(result.manifest_digest), short_digest(result.digest)
    return (
        f"Trained {weights} on {negative:,} IDC- and {positive:,} IDC+ patches at {model.size_px} "
        f"px, split {describe_split(result.params)}; manifest `{manifest}`, result `{digest}`."
    )
