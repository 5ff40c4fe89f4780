"""What a split by patch flatters: `make bench-leakage ARCHIVE=...`.

The same model (gradient-boosted trees on colours), trained on equally many patches and scored on
the same pool: five folds by case against five folds by random patch. Beside it, the leakage meter
on the subsets that each mode assigns.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier

from benchmarks.measuring import describe_machine, describe_versions, print_result
from idc.core.config import FoldsConfig, SubsetFractions
from idc.core.processes import count_cores
from idc.data.colour import colour_statistics
from idc.data.ingest.archive import list_members
from idc.data.ingest.pixel_store import store_patches
from idc.data.ranking import rank_patches
from idc.data.split.duplicates import block_means
from idc.data.split.leakage import measure_leakage
from idc.data.split.splitting import assign_cases, assign_folds, assign_patches
from idc.evaluation.statistics.bootstrap import Bootstrap, Estimate, bootstrap_metrics

SEED = 17
NUM_FOLDS = 5
FRACTIONS = SubsetFractions(val=0.15, gate=0.1, test=0.2)


def main() -> None:
    """Print the meter and the AUROC of both splits; the last line is key=value."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("archive", type=Path, nargs="+", help="zips or folders of patches")
    archives = parser.parse_args().archive
    print(describe_machine())
    print(describe_versions("scikit-learn", "numpy"))
    with tempfile.TemporaryDirectory(prefix="idc-bench-") as scratch:
        path = Path(scratch) / "pixels.npy"
        index = store_patches(list_members(archives), path, num_processes=count_cores()).index
        pixels = np.load(path, mmap_mode="r")
        print(f"{len(index):,} patches of {index['case'].nunique()} cases")
        _print_meter(index, pixels)
        by_case, by_patch = _compare(index, pixels)
    print_result(
        ours=by_case.value,
        ours_low=by_case.low,
        ours_high=by_case.high,
        peer=by_patch.value,
        peer_low=by_patch.low,
        peer_high=by_patch.high,
        ratio=(by_patch.value - 0.5) / (by_case.value - 0.5),
    )


def _print_meter(index: pd.DataFrame, pixels: np.ndarray) -> None:
    pool = index.rename_axis("row").reset_index()
    subsets = {
        "case": pool["case"].map(assign_cases(pool, FRACTIONS, SEED)),
        "patch": assign_patches(pool, FRACTIONS, SEED),
    }
    for mode, subset in subsets.items():
        # as if the whole pool were the manifest: the most that a split can leak
        leakage = measure_leakage(pool.assign(split=subset, in_manifest=True), index, pixels)
        print(
            f"split by {mode}: {leakage['num_shared_cases']} cases on two subsets, "
            f"{100 * leakage['share_touching_train']['test']:.1f} % of test touches train, "
            f"{leakage['num_exact_duplicates']} identical and {leakage['num_near_duplicates']} "
            "near duplicates"
        )


def _compare(index: pd.DataFrame, pixels: np.ndarray) -> tuple[Estimate, Estimate]:
    rows = np.arange(len(index))
    features = np.hstack([colour_statistics(pixels, rows), block_means(pixels, rows)])
    labels, case = index["label"].to_numpy(), index["case"].to_numpy()
    results = {}
    for mode, fold in {"case": _case_folds(index), "patch": _patch_folds(index)}.items():
        score = _score_out_of_fold(features, labels, fold)
        results[mode] = bootstrap_metrics(labels, score, case, 0.5, Bootstrap(2000, SEED))
        auroc = results[mode]["auroc"]
        print(f"split by {mode}: AUROC {auroc.value:.3f} [{auroc.low:.3f}, {auroc.high:.3f}]")
    return results["case"]["auroc"], results["patch"]["auroc"]


def _case_folds(index: pd.DataFrame) -> np.ndarray:
    fold = np.zeros(len(index), np.int64)
    for number in range(NUM_FOLDS):
        subsets = assign_folds(index, FoldsConfig(num_folds=NUM_FOLDS, test_fold=number), SEED)
        fold[(index["case"].map(subsets) == "test").to_numpy()] = number
    return fold


def _patch_folds(index: pd.DataFrame) -> np.ndarray:
    return rank_patches(index, SEED).argsort().argsort() % NUM_FOLDS


def _score_out_of_fold(features: np.ndarray, labels: np.ndarray, fold: np.ndarray) -> np.ndarray:
    score = np.zeros(len(labels))
    for number in range(NUM_FOLDS):
        model = HistGradientBoostingClassifier(max_iter=200, random_state=SEED)
        model.fit(features[fold != number], labels[fold != number])
        score[fold == number] = model.predict_proba(features[fold == number])[:, 1]
    return score


if __name__ == "__main__":
    main()
