"""The commands of experiments with real stages, on a synthetic archive of their own."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from idc.core.files import load_json
from idc.runs.workspace import copy_project, stage_environment
from tests.small_run import SMALL

ROOT = Path(__file__).parents[2]
NUM_CASES, NUM_FOLDS, EXCLUDED = 16, 3, 2
PLAN = {
    "base": {"name": "tiny", "overrides": {"split.exclude": "out.txt"}},
    "folds": {"num_folds": NUM_FOLDS, "only": None},
    "variants": {
        "d4": {"predict.d4_average": True},
        "impossible": {"model.pretrained": "no/such/folder"},
    },
}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


class Project:
    """A copy of the project with its own cache, store and Prefect home."""

    def __init__(self, folder: Path) -> None:
        self.folder = copy_project(ROOT, folder, SMALL)
        environment = stage_environment(self.folder)
        for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
            environment.pop(name, None)
        self._environment = environment | {
            "PREFECT_HOME": str(folder / ".prefect"),
            # its 20 s are too few beside a training on both cores
            "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300",
        }
        size = ("--cases", str(NUM_CASES), "--patches-per-case", "16")
        self.run("idc", "synth", "data/raw/synthetic.zip", *size)

    def run(self, module: str, *arguments: str, expect: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=self.folder, env=self._environment, capture_output=True, text=True,
        )  # fmt: skip
        output = done.stdout + done.stderr
        assert done.returncode == expect, f"{arguments} exited {done.returncode}: {output[-3000:]}"
        return output

    def experiments(self, *arguments: str, expect: int = 0) -> str:
        return self.run("idc", *arguments, expect=expect)

    def results(self, name: str) -> Path:
        return self.folder / "reports/experiments" / name


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    project = Project(tmp_path_factory.mktemp("experiments") / "project")
    project.run("idc", "ingest")
    cases = sorted(pd.read_parquet(project.folder / "data/patches/index.parquet")["case"].unique())
    excluded = project.folder / "data/case_lists/out.txt"
    excluded.write_text("\n".join(cases[:EXCLUDED]) + "\n", encoding="utf-8")
    (project.folder / "configs").mkdir(exist_ok=True)
    (project.folder / "configs/screen.yaml").write_text(yaml.safe_dump(PLAN), encoding="utf-8")
    return project


def test_screen_when_run_then_every_case_but_the_excluded_is_tested_once_and_a_table_is_written(
    project,
):
    output = project.experiments("screen", expect=1)  # one variant cannot run
    assert output.count("Running stage 'train':") == NUM_FOLDS  # a change of predict reuses models

    predictions = pd.read_parquet(project.results("tiny/base/predictions.parquet"))
    assert predictions["case"].nunique() == NUM_CASES - EXCLUDED
    assert (predictions.groupby("case")["fold"].nunique() == 1).all()
    assert set(predictions["fold"]) == set(range(NUM_FOLDS))

    content = load_json(project.results("screen.json"))
    base, d4 = content["variants"]
    assert (base["name"], d4["name"]) == ("base", "d4")
    assert base["training_minutes"] > 0
    assert d4["training_minutes"] == base["training_minutes"]
    assert not d4["trained"]
    low, value, high = (d4["differences"]["auroc"][key] for key in ("low", "value", "high"))
    assert low <= value <= high
    assert value == pytest.approx(d4["auroc"]["value"] - base["auroc"]["value"], abs=1e-9)
    assert "no/such/folder" in content["failed"]["impossible"]
    assert "| impossible | failed:" in project.results("screen.md").read_text(encoding="utf-8")

    again = project.experiments("cross-validate", "tiny/base", "--folds", "3", "--set",
                                "split.exclude=out.txt")  # fmt: skip
    assert "Running stage 'train':" not in again
    pd.testing.assert_frame_equal(
        pd.read_parquet(project.results("tiny/base/predictions.parquet")), predictions
    )
    compared = project.experiments(
        "compare", "tiny/base", str(project.results("tiny/d4/predictions.parquet"))
    )  # fmt: skip
    assert "| logit - logit | auroc |" in compared
    assert project.results("tiny/base/against-d4.json").is_file()


OUT = ("--set", "split.exclude=out.txt")


def test_optimism_when_run_then_both_ways_test_the_same_patches_from_equal_training_sets(project):
    output = project.experiments("optimism", "leak", "--folds", str(NUM_FOLDS), *OUT)
    assert "# Optimism `leak`" in output
    content = load_json(project.results("leak/optimism.json"))
    by_case, by_patch = content["split_unit"]["case"], content["split_unit"]["patch"]
    assert by_case["num_training_patches"] == by_patch["num_training_patches"]
    assert len(set(by_case["num_training_patches"])) == 1
    assert by_case["share_touching_train"] == 0.0 < by_patch["share_touching_train"]
    assert max(by_case["num_training_cases"]) < min(by_patch["num_training_cases"])
    gap = content["optimism"]["auroc"]
    assert gap["low"] <= gap["value"] <= gap["high"]
    ways = [
        pd.read_parquet(project.results(f"leak/{split_unit}/predictions.parquet"))
        for split_unit in ("case", "patch")
    ]
    pd.testing.assert_frame_equal(*(way[["case", "x", "y", "y_true"]] for way in ways))
    assert (ways[1].groupby("case")["fold"].nunique() > 1).all()

    audited = project.experiments("audit", "leak/case")
    assert "reports/experiments/leak/case/audit.md" in audited
    assert project.results("leak/case/audit.png").is_file()
    refused = project.experiments("audit", "leak/patch", expect=2)
    assert "audit folds of whole cases" in refused


def test_learning_curve_when_run_then_points_share_the_tested_patches(project):
    folds = ("--folds", str(NUM_FOLDS), "--only", "1")
    sizes = ("--patches", "12", "--cases", "3")
    output = project.experiments("learning-curve", "curve", *sizes, *folds, *OUT)
    assert "# Learning curve `curve`" in output
    content = load_json(project.results("curve/learning_curve.json"))
    assert content["tested"]["folds"] == [1]
    largest, *others, few = content["points"]
    assert (largest["num_patches"], largest["max_cases"]) == (12, None)
    assert few["num_training_cases"] == [3]
    assert {point["num_patches"] for point in others} == {few["num_patches"]} - {12}
    (pair,) = content["more_cases"]
    assert pair["num_patches"] == few["num_patches"]
    assert project.results("curve/learning_curve.png").is_file()
    for point in content["points"]:
        folder = project.folder / ".workspaces/experiments/curve" / point["name"] / "fold-1"
        splits = pd.read_csv(folder / "data/splits.csv")
        counts = splits[splits["split"] == "train"]["label"].value_counts()
        assert counts.to_dict() == dict.fromkeys((0, 1), point["num_patches"] // 2)
