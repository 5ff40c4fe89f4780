"""What an index tells about the archive it came from: counts, equal pixels, the published truth."""

from typing import Any

import pandas as pd

from idc.data.patches import FLAGS

PUBLISHED_ARCHIVE = {
    "num_patches": 277_524,
    "num_idc_negative": 198_738,
    "num_idc_positive": 78_786,
    "num_cases": 279,
}
"""The public archive ("Breast Histopathology Images"; Cruz-Roa et al. 2014, Janowczyk & Madabhushi
2016), every patch counted once."""

_MAX_NAMED = 50


def describe_index(index: pd.DataFrame) -> dict[str, Any]:
    """Count what the index holds.

    Args:
        index: As `idc.data.tables.INDEX_SCHEMA` says.

    Returns:
        `num_patches`, `num_idc_negative`, `num_idc_positive`, `num_cases`; `published` (see
        `compare_with_published`); `flags`: per quality flag its patches and how many of them are
        IDC+; `sizes`: patches by `<width>x<height>` px; `equal_pixels` (see
        `describe_equal_pixels`); `cases`: IDC- and IDC+ patches per case.
    """
    by_case = pd.crosstab(index["case"], index["label"]).reindex(columns=[0, 1], fill_value=0)
    counts = {
        "num_patches": len(index),
        "num_idc_negative": int(by_case[0].sum()),
        "num_idc_positive": int(by_case[1].sum()),
        "num_cases": len(by_case),
    }
    sizes = (index["width_px"].astype(str) + "x" + index["height_px"].astype(str)).value_counts()
    return counts | {
        "published": compare_with_published(counts),
        "flags": {
            flag: {
                "num_patches": int(index[flag].sum()),
                "num_idc_positive": int(index.loc[index[flag], "label"].sum()),
            }
            for flag in FLAGS
        },
        "sizes": {size: int(count) for size, count in sizes.sort_index().items()},
        "equal_pixels": describe_equal_pixels(index),
        "cases": {
            str(case): {"num_idc_negative": int(row[0]), "num_idc_positive": int(row[1])}
            for case, row in by_case.iterrows()
        },
    }


def compare_with_published(counts: dict[str, int]) -> dict[str, Any]:
    """Hold the counts against those of the public archive.

    Returns:
        `matches` (bool), and `text`: `matches the published archive`, or what differs.
    """
    names = {
        "num_patches": "patches",
        "num_idc_negative": "IDC-",
        "num_idc_positive": "IDC+",
        "num_cases": "cases",
    }
    differs = [
        f"{counts[key]:,} {name}, published {PUBLISHED_ARCHIVE[key]:,}"
        for key, name in names.items()
        if counts[key] != PUBLISHED_ARCHIVE[key]
    ]
    text = "matches the published archive"
    if differs:
        text = "is not the published archive: " + "; ".join(differs)
    return {"matches": not differs, "text": text}


def describe_equal_pixels(index: pd.DataFrame) -> dict[str, Any]:
    """Count patches whose pixels and size equal another's.

    Returns:
        `num_groups` (of equal patches), `num_patches` (in them), `num_groups_across_cases`,
        `num_groups_across_labels`, and `across_labels`: the names in the first 50 of the last,
        each group one that teaches a model to contradict itself.
    """
    key = ["sha256", "height_px", "width_px"]
    equal = index[index.duplicated(key, keep=False)]
    groups = equal.groupby(key, sort=True)
    two_labels = groups["label"].transform("nunique") > 1
    across_labels = equal[two_labels].groupby(key, sort=True)
    return {
        "num_groups": int(groups.ngroups),
        "num_patches": len(equal),
        "num_groups_across_cases": int((groups["case"].nunique() > 1).sum()),
        "num_groups_across_labels": int(across_labels.ngroups),
        "across_labels": [
            [
                f"{patch.case} x{patch.x} y{patch.y} label {patch.label}"
                for patch in group.itertuples()
            ]
            for _, group in list(across_labels)[:_MAX_NAMED]
        ],
    }
