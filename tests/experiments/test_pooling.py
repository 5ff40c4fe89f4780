import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from idc.core.errors import InputError
from idc.evaluation.cases.calibrated_burden import fit_burden
from idc.evaluation.cases.context import average_context, choose_kernel
from idc.evaluation.statistics.bootstrap import Bootstrap, bootstrap_metrics
from idc.evaluation.statistics.metrics import auroc, balanced_accuracy
from idc.evaluation.summary import burden_table
from idc.evaluation.threshold.calibration import choose_threshold, fit_calibration
from idc.experiments.pooling import calibrate_cases, decide_pooled, measure_pooled, pool_folds

NUM_FOLDS = 3


def make_fold(fold, *, shift=0.0, stretch=1.0, seed=0):
    """Fold k tests the cases of block k and calibrates on those of the next block."""
    parts = []
    for split, block in (("test", fold), ("val", (fold + 1) % NUM_FOLDS)):
        rng = np.random.default_rng([seed, block])
        number = rng.integers(0, 4, 200)
        y_true = (rng.random(200) < 0.35).astype(np.int8)
        log_odds = 2.0 * y_true - 1.3 + rng.normal(0, 0.9, 200)
        parts.append(
            pd.DataFrame(
                {
                    "case": [f"b{block}c{n}" for n in number],
                    "x": 50 * np.arange(200, dtype=np.int32) + 1,
                    "y": np.int32(1),
                    "split": split,
                    "y_true": y_true,
                    "logit": (stretch * log_odds + shift).astype(np.float32),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def make_folds(**changes):
    return {fold: make_fold(fold, **changes) for fold in range(NUM_FOLDS)}


def test_pool_folds_when_models_differ_in_scale_alone_then_the_pooled_ranking_is_the_same():
    alike = pool_folds(make_folds()).predictions
    scales = [(0.0, 1.0), (7.0, 3.0), (-4.0, 0.5)]
    other = {k: make_fold(k, shift=shift, stretch=s) for k, (shift, s) in enumerate(scales)}
    unlike = pool_folds(other).predictions
    np.testing.assert_allclose(unlike["logit"], alike["logit"], atol=1e-3)
    raw = pd.concat([table[table["split"] == "test"] for table in other.values()])
    assert auroc(unlike["y_true"], unlike["logit"]) > auroc(raw["y_true"], raw["logit"]) + 0.05


def test_pool_folds_when_pooled_then_each_fold_is_calibrated_and_decided_by_its_own_val():
    folds = make_folds()
    pooled = pool_folds(folds).predictions
    for fold, table in folds.items():
        val, test = (table[table["split"] == subset] for subset in ("val", "test"))
        line = fit_calibration(val["logit"].to_numpy(), val["y_true"].to_numpy())
        y_val = line.apply(val["logit"].to_numpy())
        threshold = choose_threshold(val["y_true"].to_numpy(), y_val, "youden")
        test = test.sort_values(["case", "x", "y"])
        found = pooled[pooled["fold"] == fold]
        log_odds = line.slope * test["logit"].to_numpy(np.float64) + line.intercept
        np.testing.assert_allclose(found["logit"], log_odds)
        decided = line.apply(test["logit"].to_numpy()) >= threshold
        assert (found["y_pred"].to_numpy() == decided).all()
        assert (found["y_true"].to_numpy() == test["y_true"]).all()


def test_pool_folds_when_pooled_then_every_test_patch_is_there_once_and_no_val_patch():
    folds = make_folds()
    pooled = pool_folds(folds).predictions
    assert len(pooled) == sum((table["split"] == "test").sum() for table in folds.values())
    assert (pooled["case"].str[1].astype(int) == pooled["fold"]).all()
    columns = ["case", "x", "y", "y_true", "fold", "y_pred", "logit", "logit_context"]
    assert list(pooled.columns) == columns
    assert pooled[["case", "x", "y"]].apply(tuple, axis=1).is_monotonic_increasing


def test_pool_folds_when_there_are_further_logits_then_each_has_a_calibration_of_its_own():
    folds = {k: t.assign(logit_other=-3 + 2 * t["logit"]) for k, t in make_folds().items()}
    pooled = pool_folds(folds)
    np.testing.assert_allclose(
        pooled.predictions["logit_other"], pooled.predictions["logit"], atol=1e-4
    )
    figures = measure_pooled(pooled, Bootstrap(100, 1))
    for metric in ("auroc", "balanced_accuracy"):
        same = pytest.approx(figures[f"logit/{metric}"], abs=1e-4)
        assert figures[f"logit_other/{metric}"] == same


def test_pool_folds_when_one_fold_lacks_a_logit_then_names_it():
    folds = make_folds()
    folds[0] = folds[0].assign(logit_other=0.0)
    with pytest.raises(InputError, match="fold 1 has the logits logit, logit_context"):
        pool_folds(folds)


def test_pool_folds_when_a_case_is_tested_twice_then_names_it():
    folds = make_folds()
    folds[1] = make_fold(0)
    with pytest.raises(InputError, match="case b0c0 is tested in 2 folds"):
        pool_folds(folds)


def test_pool_folds_when_patches_were_assigned_then_a_case_may_be_tested_twice_but_no_patch():
    folds = make_folds()
    halves = folds[0].index % 2 == 0
    folds[1] = pd.concat([folds[1][folds[1]["split"] == "val"], folds[0][~halves]])
    folds[0] = folds[0][halves]
    pooled = pool_folds(folds, tested_once="patch").predictions
    assert (pooled.groupby("case")["fold"].nunique() > 1).any()
    with pytest.raises(InputError, match="is tested in 2 folds"):
        pool_folds(folds)
    folds[2] = pd.concat([folds[2], folds[0]])
    with pytest.raises(InputError, match=r"patch b0c\d x\d+ y1 is tested in 2 folds"):
        pool_folds(folds, tested_once="patch")


def test_measure_pooled_when_measured_then_figures_are_those_of_the_whole_table():
    pooled = pool_folds(make_folds())
    figures = measure_pooled(pooled, Bootstrap(150, 4))
    table = pooled.predictions
    y_true, y_pred = table["y_true"].to_numpy(), table["y_pred"].to_numpy()
    assert figures["logit/auroc"] == pytest.approx(auroc(y_true, table["logit"]))
    assert figures["logit/balanced_accuracy"] == pytest.approx(balanced_accuracy(y_true, y_pred))
    expected = bootstrap_metrics(
        y_true, 1 / (1 + np.exp(-table["logit"].to_numpy())), table["case"].to_numpy(), 0.5,
        Bootstrap(150, 4),
    )["auroc"]  # fmt: skip
    assert figures["logit/auroc_low"] == pytest.approx(expected.low)
    assert figures["num_cases"] == table["case"].nunique()
    by_fold = [auroc(part["y_true"], part["logit"]) for _, part in table.groupby("fold")]
    assert figures["mean_fold_auroc"] == pytest.approx(np.mean(by_fold))  # folds of equal size
    part = table[table["fold"] == 2]
    assert figures["folds"]["2"]["auroc"] == pytest.approx(auroc(part["y_true"], part["logit"]))
    assert figures["folds"]["2"]["calibration"]["logit"]["slope"] > 0


def test_measure_pooled_when_there_are_baselines_then_they_are_scored_and_compared():
    rng = np.random.default_rng(2)
    folds = {
        fold: table.assign(y_score_noise=rng.random(len(table)))
        for fold, table in make_folds().items()
    }
    pooled = pool_folds(folds)
    assert list(pooled.points) == ["logit", "logit_noise", "logit_context"]
    figures = measure_pooled(pooled, Bootstrap(200, 1))
    assert figures["logit_noise/auroc"] < 0.6
    gain = figures["differences"]["logit_noise"]["auroc"]
    assert gain["value"] == pytest.approx(figures["logit/auroc"] - figures["logit_noise/auroc"])
    assert 0 < gain["low"] < gain["value"] < gain["high"]


def columns(table, *names):
    return [table[name].to_numpy() for name in names]


@pytest.mark.parametrize("context", ["mean9", "gaussian"])
def test_pool_folds_when_whole_cases_are_tested_then_patches_around_are_averaged(context):
    folds = make_folds()
    pooled = pool_folds(folds, context=context)
    table = pooled.predictions
    for fold, part in table.groupby("fold"):
        raw = folds[fold][folds[fold]["split"] == "test"].sort_values(["case", "x", "y"])
        val = folds[fold][folds[fold]["split"] == "val"]
        kernel = choose_kernel(context, *columns(val, "case", "x", "y", "logit", "y_true"))
        around = average_context(*columns(raw, "case", "x", "y", "logit"), kernel)
        point = pooled.points["logit_context"][fold]
        np.testing.assert_allclose(part["logit_context"], point.calibrate(around))
    decided = decide_pooled(pooled)
    np.testing.assert_array_equal(decided["y_pred"], table["y_pred"])
    np.testing.assert_allclose(decided["context_y_score"], expit(table["logit_context"]))
    assert 0 < decided["context_y_pred"].mean() < 1


def test_pool_folds_when_patches_are_assigned_then_there_is_no_context():
    table = pool_folds(make_folds(), tested_once="patch").predictions
    assert "logit_context" not in table


def test_pool_folds_when_context_is_none_then_there_is_none():
    assert "logit_context" not in pool_folds(make_folds(), context="none").predictions


def spread_cases(fold, *, num_cases=14):
    """Fold k tests the cases of block k and calibrates on the next block's; burdens differ."""
    parts = []
    for split, block in (("test", fold), ("val", (fold + 1) % NUM_FOLDS)):
        rng = np.random.default_rng([5, block])
        number = np.repeat(np.arange(num_cases), 20)
        y_true = (rng.random(len(number)) < (number + 1) / (num_cases + 4)).astype(np.int8)
        parts.append(
            pd.DataFrame(
                {
                    "case": [f"b{block}c{n:02}" for n in number],
                    "x": 50 * np.arange(len(number), dtype=np.int32) + 1,
                    "y": np.int32(1),
                    "split": split,
                    "y_true": y_true,
                    "logit": (2.0 * y_true + rng.normal(0, 1.0 + block, len(number))),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def test_calibrate_cases_when_folds_differ_then_each_is_fitted_on_its_own_val_cases():
    folds = {fold: spread_cases(fold) for fold in range(NUM_FOLDS)}
    pooled = pool_folds(folds)
    cases, lines = calibrate_cases(folds, pooled)
    plain = burden_table(decide_pooled(pooled))
    pd.testing.assert_frame_equal(cases[plain.columns], plain)
    for fold, table in folds.items():
        val = table[table["split"] == "val"]
        line = fit_calibration(val["logit"].to_numpy(), val["y_true"].to_numpy())
        score = pd.Series(line.apply(val["logit"].to_numpy()), val.index)
        by_case = pd.DataFrame({"mean_score": score, "burden": val["y_true"]})
        assert lines[fold] == fit_burden(by_case.groupby(val["case"]).mean())
        tested = cases[cases["case"].str.startswith(f"b{fold}")]
        expected = lines[fold].apply(tested["mean_score"].to_numpy())
        np.testing.assert_array_equal(tested["calibrated"], expected)
    assert len({line.slope for line in lines.values()}) == NUM_FOLDS


def test_calibrate_cases_when_val_cases_are_few_then_the_mean_score_stays_in_that_fold():
    folds = {fold: spread_cases(fold) for fold in range(NUM_FOLDS)}
    few = folds[0]["case"].isin([f"b1c{n:02}" for n in range(9)])
    folds[0] = folds[0][few | (folds[0]["split"] == "test")]
    cases, lines = calibrate_cases(folds, pool_folds(folds))
    assert [line.reason for line in lines.values()] == [
        "9 val cases: a line needs 10 or more", "", "",
    ]  # fmt: skip
    same = cases["calibrated"] == cases["mean_score"]
    assert same.groupby(cases["case"].str[1]).all().tolist() == [True, False, False]
