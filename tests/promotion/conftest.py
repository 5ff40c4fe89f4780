"""A project whose registry holds versions that score the gate as a test says."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from mlflow.tracking import MlflowClient

from idc.core import layout
from idc.data.tables import SPLITS_SCHEMA, save_table
from idc.evaluation.threshold.operating_point import OperatingPoint
from idc.lifecycle.promotion.gate import GateScores
from idc.models.bundle import save_bundle
from idc.models.spec import digest_bundle
from idc.tracking.connection import connect, ensure_experiment
from idc.tracking.registry import Registry
from tests.random_networks import random_fusion, tiny_spec

SPEC = tiny_spec()
NUM_CASES, PATCHES_PER_CASE = 20, 20


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """A store with its tables and nothing in them: making them takes seconds."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path.read_bytes()


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A tiny untrained network and its operating point, as the registry's files hold them."""
    folder = tmp_path_factory.mktemp("trained")
    torch.manual_seed(1)
    model = random_fusion(SPEC.backbones, dropout=0.0, aux_heads=False)
    save_bundle(
        folder / "artifacts/fusion", model.state_dict(), SPEC, pd.DataFrame({"epoch": [1]}),
        torch.zeros(96),
    )  # fmt: skip
    OperatingPoint(
        slope=1.0, intercept=0.0, threshold=0.5, threshold_low=0.4, threshold_high=0.6,
        threshold_rule="youden", prior_shift=0.0, d4_average=False,
        model_digest=digest_bundle(folder / "artifacts/fusion"),
    ).save(folder / "artifacts/point.json")  # fmt: skip
    artifacts = {
        "bundle": {"path": "artifacts/fusion"},
        "operating_point": {"path": "artifacts/point.json"},
    }
    content = {"flavors": {"python_function": {"artifacts": artifacts, "loader_module": "none"}}}
    (folder / "MLmodel").write_text(yaml.safe_dump(content), encoding="utf-8")
    return folder


def make_splits(cases_by_subset):
    rows = [
        {
            "row": 0, "case": case, "x": 50 * place + 1, "y": 1,
            "label": int(place % 3 == 0), "split": subset, "in_manifest": True,
        }
        for subset, cases in cases_by_subset.items()
        for case in cases
        for place in range(PATCHES_PER_CASE)
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    table["row"] = np.arange(len(table))
    return table.astype({"x": "int32", "y": "int32", "label": "int8"})


SUBSETS = {
    "train": [f"t{number}" for number in range(4)],
    "val": ["v0", "v1"],
    "gate": [f"g{number:02d}" for number in range(NUM_CASES)],
    "test": ["e0", "e1"],
}


class Project:
    """A folder with subsets, pixels and a registry."""

    def __init__(self, root: Path, params, trained: Path) -> None:
        self.root, self.params, self._trained = root, params, trained
        self.client = connect(root)
        self.splits = make_splits(SUBSETS)
        save_table(root / layout.SPLITS, self.splits, SPLITS_SCHEMA)
        (root / layout.PATCHES).mkdir(parents=True)
        pixels = np.random.default_rng(3).integers(0, 256, (len(self.splits), 50, 50, 3), np.uint8)
        np.save(root / layout.PIXELS, pixels)

    def add_version(self, result_digest, *, splits=None, alias="challenger", files=None):
        """Register a version; `splits` tells what it was trained on, `False` that it is silent.

        `files` are further files of its run, text or bytes by name.
        """
        name = self.params.publish.model_name
        run = self.client.create_run(
            ensure_experiment(self.client, self.params.publish.experiment, self.root)
        )
        if splits is not False:
            path = self.root / "kept/splits.csv"
            save_table(path, self.splits if splits is None else splits, SPLITS_SCHEMA)
            self.client.log_artifact(run.info.run_id, str(path))
        for file, content in (files or {}).items():
            path = self.root / "kept" / file
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
            self.client.log_artifact(run.info.run_id, str(path))
        self.client.log_metric(run.info.run_id, "test/auroc", 0.9)
        if not self.client.search_registered_models(f"name = '{name}'"):
            self.client.create_registered_model(name)
        digest = digest_bundle(self._trained / "artifacts/fusion")
        version = self.client.create_model_version(
            name, self._trained.as_uri(), run.info.run_id,
            tags={"result_digest": result_digest, "model_digest": digest, "git_commit": "abc"},
        )  # fmt: skip
        if alias:
            self.client.set_registered_model_alias(name, alias, version.version)
        return str(version.version)

    def registry(self):
        return Registry(self.root, self.params)

    def champion(self):
        champion = self.registry().champion()
        return champion and champion.version


@pytest.fixture
def project(tmp_path, empty_store, change_params, trained, monkeypatch):
    store = tmp_path / "mlruns/mlflow.db"
    store.parent.mkdir(parents=True)
    store.write_bytes(empty_store)
    monkeypatch.chdir(tmp_path)
    params = change_params(
        promotion={"first_balanced_accuracy": 0.6}, evaluate={"num_replicates": 200}
    )
    return Project(tmp_path, params, trained)


def score_with_errors(y_true, error_share, seed=0):
    """Decisions that are wrong for so many patches of each class, spread over the cases."""
    rng = np.random.default_rng(seed)
    wrong = np.zeros(len(y_true), bool)
    for label in (0, 1):
        places = np.flatnonzero(y_true == label)
        wrong[rng.choice(places, round(error_share * len(places)), replace=False)] = True
    y_pred = np.where(wrong, 1 - y_true, y_true).astype(np.int8)
    return GateScores(np.where(y_pred == 1, 0.8, 0.2), y_pred)
