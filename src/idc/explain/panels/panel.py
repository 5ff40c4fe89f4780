"""Which test patches are explained, and how they are drawn from the subset."""

import numpy as np
import pandas as pd

from idc.data.ranking import rank_patches

STAINS = ("pale", "medium", "dark")
"""Terciles of the mean optical density over the test set."""

FUSED = "fused"
"""The source beside the backbones: all of them together."""

PANELS = {
    "reference": {"positive": "IDC+", "negative": "IDC-"},
    "errors": {
        "fp": "IDC-, predicted IDC+ (false positives)",
        "fn": "IDC+, predicted IDC- (false negatives)",
        "tp": "IDC+, predicted IDC+ (true positives)",
        "tn": "IDC-, predicted IDC- (true negatives)",
    },
}
"""The groups of each panel, and how they read: errors first, what was right beside them."""

_PLACE = ["row", "case", "x", "y", "y_true"]


def sheet_name(panel: str, group: str, source: str) -> str:
    """Return the name of the picture of one group's maps of one source."""
    return f"{panel}_{group}_{source}.png"


def draw_reference(test: pd.DataFrame, *, num_patches: int, seed: int) -> pd.DataFrame:
    """Draw the panel that is the same for every model: scores play no part in it.

    Label and stain make six strata, which take turns; within a stratum cases take turns, in an
    order that a hash of seed, case and place makes. So labels and stains are equally frequent where
    the subset has enough of each, and no case fills a stratum that others could fill. Patches
    padded at the slide's edge are left out.

    Args:
        test: Columns `row`, `case`, `x`, `y`, `y_true`, `mean_optical_density`, `sliver`.
        num_patches: How many; all where there are fewer.
        seed: Seed of the order.

    Returns:
        Columns `group`, `stain` (of `STAINS`), `row`, `case`, `x`, `y`,
        `y_true`; IDC+ first, from pale to dark.
    """
    density = test["mean_optical_density"].to_numpy()
    stain = np.digitize(density, np.quantile(density, [1 / 3, 2 / 3])) if len(test) else density
    whole = ~test["sliver"].to_numpy(bool)
    patches = test.assign(stain=stain)[whole][[*_PLACE, "stain"]]
    patches = patches.assign(rank=rank_patches(patches, seed))
    strata = ["y_true", "stain"]
    patches = _take_turns(patches, strata, ["rank"])
    patches["turn"] = patches.groupby(strata).cumcount()
    drawn = patches.sort_values(["turn", "stain", "y_true"]).head(num_patches)
    drawn = drawn.sort_values(["y_true", "stain", "turn"], ascending=[False, True, True])
    drawn["group"] = np.where(drawn["y_true"] == 1, "positive", "negative")
    drawn["stain"] = [STAINS[int(place)] for place in drawn["stain"]]
    return drawn[["group", "stain", *_PLACE]].reset_index(drop=True)


def draw_errors(test: pd.DataFrame, *, num_per_group: int) -> pd.DataFrame:
    """Draw this model's most confident errors, and the most confident right ones beside them.

    Within a group cases take turns, each with the patch whose score is farthest from the threshold:
    only where a group has fewer cases than patches asked for does a case come twice.

    Args:
        test: Columns `row`, `case`, `x`, `y`, `y_true`, `y_pred`, `y_score`.
        num_per_group: Patches per group; a group may hold fewer, or none.

    Returns:
        Columns `group`, `row`, `case`, `x`, `y`, `y_true`; in the order of the
        groups, each from the most confident on within a turn.
    """
    called = test["y_pred"].to_numpy() == 1
    idc = test["y_true"].to_numpy() == 1
    group = np.select([idc & called, idc & ~called, ~idc & called], ["tp", "fn", "fp"], "tn")
    doubt = np.where(called, -test["y_score"], test["y_score"])
    patches = test.assign(group=group, doubt=doubt)
    patches = _take_turns(patches, ["group"], ["doubt", "case", "x", "y"])
    drawn = [patches[patches["group"] == name].head(num_per_group) for name in PANELS["errors"]]
    return pd.concat(drawn)[["group", *_PLACE]].reset_index(drop=True)


def _take_turns(patches: pd.DataFrame, within: list[str], by: list[str]) -> pd.DataFrame:
    """Order patches so that the cases of each group take turns, each in the order of `by`."""
    ordered = patches.sort_values(by)
    turn = ordered.groupby([*within, "case"]).cumcount()
    return ordered.assign(turn=turn).sort_values(["turn", *by])
