"""The tables between stages: read, written and guarded by one schema each, values as they are."""

from pathlib import Path

import pandas as pd
import pandera.pandas as pa

from idc.core.errors import InputError
from idc.core.files import replacing_file
from idc.data.patches import FLAGS, PATCH_SIZE_PX
from idc.data.subsets import HELD_OUT, SUBSETS

_PLACE = {
    "case": pa.Column(str, pa.Check.str_length(min_value=1)),
    "x": pa.Column("int32", pa.Check.ge(0)),
    "y": pa.Column("int32", pa.Check.ge(0)),
}
_ROW = {"row": pa.Column("int64", pa.Check.ge(0), unique=True)}
_LABEL = pa.Column("int8", pa.Check.isin([0, 1]))
_SIZE_PX = pa.Column("int16", pa.Check.in_range(1, PATCH_SIZE_PX))


def _is_sliver_by_size(index: pd.DataFrame) -> pd.Series:
    return index["sliver"] == index[["height_px", "width_px"]].ne(PATCH_SIZE_PX).any(axis=1)


def _trains_on_manifest_only(splits: pd.DataFrame) -> pd.Series:
    return (splits["split"] != "train") | splits["in_manifest"]


INDEX_SCHEMA = pa.DataFrameSchema(
    _PLACE
    | {
        "label": _LABEL,
        "height_px": _SIZE_PX,
        "width_px": _SIZE_PX,
        "sha256": pa.Column(str, pa.Check.str_matches("^[0-9a-f]{64}$")),
    }
    | {flag: pa.Column(bool) for flag in FLAGS},
    checks=pa.Check(_is_sliver_by_size, name="sliver says whether the size is not 50x50"),
    unique=["case", "x", "y"],
    strict=True,
    ordered=True,
    name="ingest",
)
"""Row i describes `pixels[i]`: its place (px), label, size as archived (px), sha256 of the decoded
pixels before padding (together with the size it tells equal patches), and the quality flags."""

MANIFEST_SCHEMA = pa.DataFrameSchema(
    _ROW | _PLACE | {"label": _LABEL},
    unique=["case", "x", "y"],
    strict=True,
    ordered=True,
    name="sample",
)
"""The sampled patches in the order they were drawn; `row` points into the index."""

SPLITS_SCHEMA = pa.DataFrameSchema(
    _ROW
    | _PLACE
    | {
        "label": _LABEL,
        "split": pa.Column(str, pa.Check.isin(SUBSETS)),
        "in_manifest": pa.Column(bool),
    },
    checks=pa.Check(_trains_on_manifest_only, name="train holds manifest rows only"),
    unique=["case", "x", "y"],
    strict=True,
    ordered=True,
    name="split",
)
"""Manifest rows on train; every pool patch of val, gate and test."""

PREDICTIONS_SCHEMA = pa.DataFrameSchema(
    _ROW
    | _PLACE
    | {
        "split": pa.Column(str, pa.Check.isin(HELD_OUT)),
        "in_manifest": pa.Column(bool),
        "sliver": pa.Column(bool),
        "mean_optical_density": pa.Column("float64", pa.Check.in_range(0.0, 10.0)),
        "white_share": pa.Column("float64", pa.Check.in_range(0.0, 1.0)),
        "y_true": _LABEL,
        "logit": pa.Column("float32", pa.Check.in_range(-1e6, 1e6)),
        "logit_.+": pa.Column("float32", pa.Check.in_range(-1e6, 1e6), regex=True, required=False),
    },
    unique=["case", "x", "y"],
    strict=True,
    ordered=True,
    name="predict",
)
"""Logits of every pool patch of val, gate and test.

Behind them, a column `logit_<backbone>` for each backbone with a head of its own; and where there
is a texture member, `logit_cnn` (the fusion without it) and `logit_texture`.
"""

RECORDED_LOGITS_SCHEMA = pa.DataFrameSchema(
    _PLACE
    | {
        "split": pa.Column(str, pa.Check.isin(HELD_OUT)),
        "logit": pa.Column("float32", pa.Check.in_range(-1e6, 1e6)),
    },
    unique=["case", "x", "y"],
    strict=False,
    name="predict",
)
"""What predictions of any age hold: before the stage `baselines`, its scores stood among them."""

BASELINE_SCORES_SCHEMA = pa.DataFrameSchema(
    _ROW
    | {
        "y_score_.+": pa.Column("float64", pa.Check.in_range(0.0, 1.0), regex=True),
    },
    strict=True,
    ordered=True,
    name="baselines",
)
"""Of the same patches, in the same order: a column `y_score_<baseline>`, the probability of IDC+,
for colour and each of `baselines.names`; `row` points into the index."""

_CSV_DTYPES = {
    "case": "str",
    "split": "str",
    "row": "int64",
    "x": "int32",
    "y": "int32",
    "label": "int8",
}


def load_table(path: Path, schema: pa.DataFrameSchema) -> pd.DataFrame:
    """Read a Parquet or CSV table that a stage wrote, and check it.

    Raises:
        InputError: If it is missing, or breaks its schema; the message names column, row and rule.
    """
    if not path.exists():
        raise InputError(f"{path} is missing: run `dvc repro {schema.name}`")
    try:
        if path.suffix == ".parquet":
            table = pd.read_parquet(path)
        else:
            table = pd.read_csv(path, dtype=_CSV_DTYPES, keep_default_na=False)
    except (OSError, ValueError, OverflowError) as error:  # numbers of hundreds of digits
        raise InputError(
            f"{path} cannot be read ({' '.join(str(error).split())[:200]}): "
            f"delete it and run `dvc repro {schema.name}`"
        ) from None
    return _checked(table, schema, path)


def load_scores(predictions: Path, baseline_scores: Path) -> pd.DataFrame:
    """Read what the network and what the baselines say of the same patches, as one table.

    Args:
        predictions: As `PREDICTIONS_SCHEMA` says.
        baseline_scores: As `BASELINE_SCORES_SCHEMA` says.

    Returns:
        The predictions with a column `y_score_<baseline>` for each baseline behind theirs.

    Raises:
        InputError: If either is missing or breaks its schema, or they are of different patches.
    """
    scored = load_table(predictions, PREDICTIONS_SCHEMA)
    baselines = load_table(baseline_scores, BASELINE_SCORES_SCHEMA)
    if set(scored["row"]) != set(baselines["row"]):
        raise InputError(
            f"{baseline_scores} and {predictions} are of different patches: "
            "run `dvc repro baselines predict`"
        )
    return scored.merge(baselines, on="row", how="left", validate="one_to_one")


def save_table(path: Path, table: pd.DataFrame, schema: pa.DataFrameSchema) -> None:
    """Check a table and write it as Parquet or CSV, by the suffix; whole or not at all.

    Raises:
        InputError: If it breaks its schema.
    """
    _checked(table, schema, path)
    with replacing_file(path) as partial:
        if path.suffix == ".parquet":
            table.to_parquet(partial, index=False)
        else:
            table.to_csv(partial, index=False)


def _checked(table: pd.DataFrame, schema: pa.DataFrameSchema, path: Path) -> pd.DataFrame:
    try:
        schema.validate(table, lazy=True)
    except pa.errors.SchemaErrors as errors:
        raise InputError(
            f"{path}: {_describe(errors.failure_cases)}: run "
            f"`dvc repro --force --single-item {schema.name}`"
        ) from None
    return table


def _describe(faults: pd.DataFrame) -> str:
    """Say the first fault in words; one of a single column says more than one of whole rows."""
    of_columns = faults[faults["schema_context"] == "Column"]
    fault = (faults if of_columns.empty else of_columns).iloc[0]
    place = "" if pd.isna(fault["index"]) else f" in row {fault['index']}"
    if of_columns.empty:
        return f"`{fault['check']}` is broken{place}"
    value = fault["failure_case"]
    shown = repr(value) if isinstance(value, str) else value
    return f"{fault['column']}: {shown}{place} breaks `{fault['check']}`"
