import numpy as np
import pandas as pd
import pytest

from idc.core.errors import InputError
from idc.data.tables import (
    BASELINE_SCORES_SCHEMA,
    INDEX_SCHEMA,
    MANIFEST_SCHEMA,
    PREDICTIONS_SCHEMA,
    RECORDED_LOGITS_SCHEMA,
    SPLITS_SCHEMA,
    load_table,
    save_table,
)


@pytest.fixture
def index(make_index):
    return make_index({"a": (3, 2), "b": (2, 3)})


@pytest.fixture
def splits(index):
    rows = index.rename_axis("row").reset_index()[["row", "case", "x", "y", "label"]]
    subset = pd.Series(["train", "val", "gate", "test", "test"] * 2, dtype="str")
    return rows.assign(split=subset, in_manifest=True)


@pytest.fixture
def predictions(splits):
    held_out = splits[splits["split"] != "train"].rename(columns={"label": "y_true"})
    scored = held_out.assign(
        sliver=False,
        mean_optical_density=0.3,
        white_share=0.1,
        logit=np.float32(0.5),
    )
    fixed = [name for name, column in PREDICTIONS_SCHEMA.columns.items() if not column.regex]
    return scored[fixed].assign(logit_resnet50=np.float32(0.25)).reset_index(drop=True)


def test_load_table_when_the_index_was_saved_then_keeps_every_type(index, tmp_path):
    save_table(tmp_path / "index.parquet", index, INDEX_SCHEMA)
    pd.testing.assert_frame_equal(load_table(tmp_path / "index.parquet", INDEX_SCHEMA), index)


def test_load_table_when_the_splits_were_saved_then_keeps_every_type(splits, tmp_path):
    save_table(tmp_path / "splits.csv", splits, SPLITS_SCHEMA)
    pd.testing.assert_frame_equal(load_table(tmp_path / "splits.csv", SPLITS_SCHEMA), splits)


def test_load_table_when_case_ids_look_like_numbers_or_gaps_then_stay_text(splits, tmp_path):
    numbered = splits.assign(case=splits["case"].map({"a": "0123", "b": "NA"}).astype("str"))
    save_table(tmp_path / "splits.csv", numbered, SPLITS_SCHEMA)
    assert set(load_table(tmp_path / "splits.csv", SPLITS_SCHEMA)["case"]) == {"0123", "NA"}


def test_load_table_when_a_number_has_hundreds_of_digits_then_says_so_in_a_line(index, tmp_path):
    path = tmp_path / "index.csv"
    save_table(path, index, INDEX_SCHEMA)
    text = path.read_text().replace(",1,", f",{'9' * 400},")
    path.write_text(text)
    with pytest.raises(InputError, match=r"index\.csv (cannot be read|breaks)") as refused:
        load_table(path, INDEX_SCHEMA)
    assert "\n" not in str(refused.value)


def test_load_table_when_missing_then_says_how_to_make_it(tmp_path):
    with pytest.raises(InputError, match="run `dvc repro ingest`"):
        load_table(tmp_path / "index.parquet", INDEX_SCHEMA)


def test_load_table_when_truncated_then_says_how_to_make_it(index, tmp_path):
    path = tmp_path / "index.parquet"
    save_table(path, index, INDEX_SCHEMA)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=r"cannot be read.*run `dvc repro ingest`"):
        load_table(path, INDEX_SCHEMA)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("label", np.int8(2), r"label: 2 in row 3 breaks `isin"),
        ("x", np.int32(-1), r"x: -1 in row 3 breaks `greater_than_or_equal_to\(0\)`"),
        ("width_px", np.int16(51), "width_px: 51 in row 3 breaks `in_range"),
        ("sha256", "abc", "sha256: 'abc' in row 3 breaks `str_matches"),
        ("sliver", True, "sliver says whether the size is not 50x50"),
    ],
)
def test_save_table_when_a_value_breaks_a_rule_then_names_column_value_and_row(
    index, tmp_path, column, value, message
):
    index.loc[3, column] = value
    with pytest.raises(InputError, match=message):
        save_table(tmp_path / "index.parquet", index, INDEX_SCHEMA)
    assert list(tmp_path.iterdir()) == []


def test_save_table_when_a_place_is_there_twice_then_refuses(index, tmp_path):
    twice = pd.concat([index, index.head(1)], ignore_index=True)
    with pytest.raises(InputError, match="unique"):
        save_table(tmp_path / "index.parquet", twice, INDEX_SCHEMA)


@pytest.mark.parametrize("change", [{"extra": 1}, {"x": 1}])
def test_save_table_when_columns_or_types_differ_then_refuses(index, tmp_path, change):
    with pytest.raises(InputError, match=r"`(column_in_schema|dtype\('int32'\))`"):
        save_table(tmp_path / "index.parquet", index.assign(**change), INDEX_SCHEMA)


def test_save_table_when_a_training_patch_is_not_in_the_manifest_then_refuses(splits, tmp_path):
    splits.loc[0, "in_manifest"] = False
    with pytest.raises(InputError, match="train holds manifest rows only"):
        save_table(tmp_path / "splits.csv", splits, SPLITS_SCHEMA)


def test_save_table_when_a_manifest_row_is_there_twice_then_refuses(splits, tmp_path):
    manifest = splits[list(MANIFEST_SCHEMA.columns)].assign(row=1)
    with pytest.raises(InputError, match="row: 1 in row"):
        save_table(tmp_path / "manifest.csv", manifest, MANIFEST_SCHEMA)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("logit", np.float32(np.nan)),
        ("logit_resnet50", np.float32(2e6)),
        ("split", "train"),
    ],
)
def test_save_table_when_a_prediction_is_impossible_then_refuses(
    predictions, tmp_path, column, value
):
    predictions.loc[0, column] = value
    with pytest.raises(InputError, match=f"{column}: .* in row 0 breaks"):
        save_table(tmp_path / "predictions.parquet", predictions, PREDICTIONS_SCHEMA)


def test_save_table_when_a_score_of_a_baseline_is_impossible_then_refuses(predictions, tmp_path):
    scores = predictions[["row"]].assign(y_score_colour=0.5, y_score_trees=1.5)
    with pytest.raises(InputError, match=r"y_score_trees: 1\.5 in row 0 breaks"):
        save_table(tmp_path / "baseline_scores.parquet", scores, BASELINE_SCORES_SCHEMA)


def test_load_table_when_recorded_before_the_stage_baselines_then_its_logits_are_read(
    predictions, tmp_path
):
    old = predictions.assign(y_score_colour=0.5)
    old.to_parquet(tmp_path / "predictions.parquet", index=False)
    assert load_table(tmp_path / "predictions.parquet", RECORDED_LOGITS_SCHEMA).equals(old)
    with pytest.raises(InputError, match="column_in_schema"):
        load_table(tmp_path / "predictions.parquet", PREDICTIONS_SCHEMA)
