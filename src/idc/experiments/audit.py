"""Which labels a cross-validated model contradicts: a list, a contact sheet, a page."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from idc.core.errors import InputError
from idc.core.files import replacing_file
from idc.core.layout import INDEX, LABEL_OVERRIDES, PIXELS
from idc.data.manifest.label_overrides import load_label_overrides
from idc.data.patches import load_pixels
from idc.data.tables import INDEX_SCHEMA, load_table
from idc.experiments.contradictions import (
    CAVEAT,
    count_confident,
    draw_contact_sheet,
    rank_disagreements,
)
from idc.experiments.folds import FOLDERS, RESULTS
from idc.experiments.results import PREDICTIONS_FILE, load_scorings
from idc.experiments.tables import save_text

NUM_DRAWN = 24

_CONFIDENT = (0.9, 0.99)


def audit_labels(root: Path, name: str) -> Path:
    """Write `audit.csv`, `audit.png` (the first 24) and `audit.md` next to a result.

    Patches that `data/label_overrides.csv` already corrects are left out. A row of the list holds
    `case`, `x`, `y`, `label`, `probability`, `num_neighbours`, `neighbour_idc_share` (empty where
    there are none) and `override`, the line that would correct the label for training.

    Args:
        root: The project.
        name: Result of the flow `folds`.

    Returns:
        The path of `audit.md`.

    Raises:
        InputError: If there is no such result, cases were tested in several folds, the patches of
            the project or the folds are missing, or they belong to another archive.
    """
    folder = root / RESULTS / name
    predictions = load_scorings(folder / PREDICTIONS_FILE)
    _require_case_folds(predictions, folder / PREDICTIONS_FILE)
    place = _find_patches(root, name)
    index = load_table(place / INDEX, INDEX_SCHEMA)
    known = load_label_overrides(root / LABEL_OVERRIDES, index)
    ranked = rank_disagreements(predictions, index)
    found = ranked[~ranked["row"].isin(known["row"])].reset_index(drop=True)
    if found.empty:
        raise InputError(f"{folder / PREDICTIONS_FILE} agrees with every label: nothing to audit")
    _save_list(folder / "audit.csv", found, name)
    figure = draw_contact_sheet(found.head(NUM_DRAWN), index, load_pixels(place / PIXELS))
    with replacing_file(folder / "audit.png") as partial:
        figure.savefig(partial, format="png", metadata={"Software": None})
    content = {
        "num_patches": len(predictions),
        "num_cases": int(predictions["case"].nunique()),
        "num_disagreeing": len(ranked),
        "num_overridden": len(ranked) - len(found),
        "confident": {str(share): count_confident(predictions, share) for share in _CONFIDENT},
    }
    save_text(folder / "audit.md", format_audit(name, content, found.head(NUM_DRAWN)))
    return folder / "audit.md"


def format_audit(name: str, content: Mapping[str, Any], first: pd.DataFrame) -> str:
    """Return the Markdown page of an audit.

    Args:
        name: The audited result.
        content: `num_patches`, `num_cases`, `num_disagreeing`, `num_overridden` and, by confidence,
            what `count_confident` returns.
        first: The first rows of what `rank_disagreements` returns.
    """
    left_out = ""
    if content["num_overridden"]:
        left_out = f" {content['num_overridden']} of them are overridden already and left out."
    lines = [
        f"# Label audit `{name}`",
        "",
        f"{content['num_patches']:,} patches of {content['num_cases']} cases, each scored by a "
        f"model that never saw its case; {content['num_disagreeing']:,} are likelier of the other "
        f"label.{left_out}",
        "",
        f"{CAVEAT} Look at each, best with a pathologist, before you copy its `override` from "
        f"`audit.csv` into `{LABEL_OVERRIDES}`: it then holds for training, never for the figures.",
        "",
        "| confidence at least | patches | of the other label | to be expected |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {share} | {found['num_patches']:,} | {found['num_disagreeing']:,} "
        f"| {found['num_expected']:.1f} |"
        for share, found in content["confident"].items()
    ]
    lines += [
        "",
        "Expected: if the probabilities were exactly right about the labels as they are. As many "
        "are no sign of wrong labels.",
        "",
        "![the first disagreements](audit.png)",
        "",
        "| | case | x | y | label | probability of IDC+ | neighbours, of them IDC+ |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {number} | {patch['case']} | {patch['x']} | {patch['y']} "
        f"| {'IDC+' if patch['label'] else 'IDC-'} | {patch['probability']:.4f} "
        f"| {_format_neighbours(patch)} |"
        for number, patch in enumerate(first.to_dict("records"), start=1)
    ]
    return "\n".join(lines) + "\n"


def _require_case_folds(predictions: pd.DataFrame, path: Path) -> None:
    folds = predictions.groupby("case")["fold"].nunique()
    if (folds > 1).any():
        raise InputError(
            f"{path}: case {folds.idxmax()} was tested in {folds.max()} folds: a model that learnt "
            "a patch's neighbours repeats their labels; audit folds of whole cases"
        )


def _find_patches(root: Path, name: str) -> Path:
    """Return the folder, of the project or a fold, in which the stage `ingest` has run."""
    places = [root, *sorted((root / FOLDERS / name).glob("fold-*"))]
    for place in places:
        if (place / INDEX).exists() and (place / PIXELS).exists():
            return place
    raise InputError(
        f"neither {root / PIXELS} nor a fold in {root / FOLDERS / name} holds the patches: run "
        "`dvc repro ingest`"
    )


def _save_list(path: Path, found: pd.DataFrame, name: str) -> None:
    override = [
        f"{patch['case']},{patch['x']},{patch['y']},{1 - patch['label']},"
        f"audit {name}: p(IDC+) {patch['probability']:.4f}"
        for patch in found.to_dict("records")
    ]
    columns = ["case", "x", "y", "label", "probability", "num_neighbours", "neighbour_idc_share"]
    with replacing_file(path) as partial:
        found[columns].assign(override=override).to_csv(partial, index=False, float_format="%.6f")


def _format_neighbours(patch: Mapping[Any, Any]) -> str:
    count = patch["num_neighbours"]
    return "0" if count == 0 else f"{count}, {patch['neighbour_idc_share'] * count:.0f}"
