"""Shared ground of the tests: one thread, no network, tiny parameters and tiny data."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
os.environ.pop("MLFLOW_TRACKING_URI", None)

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import yaml

from idc.config import Params

ROOT = Path(__file__).parents[1]

cv2.setNumThreads(1)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_inherited_store(monkeypatch: pytest.MonkeyPatch) -> None:
    # mlflow.set_tracking_uri writes this variable: without it each test is like a new process
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")


@pytest.fixture(scope="session")
def project_root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def change_params() -> Callable[..., Params]:
    """`change_params(train={"epochs": 2})`: the project's values, tiny, with these changes."""
    tiny: dict[str, dict[str, Any]] = {
        "model": {"backbones": ["test_resnet"], "pretrained": "none", "size_px": 32},
        "train": {"epochs": 2, "batch_size": 8, "precision": "fp32"},
        "predict": {"baselines": []},
        "evaluate": {"num_replicates": 100},
        "explain": {"scores": None},
        "runtime": {"device": "cpu", "num_threads": 1, "scoring_batch_size": 16},
    }

    def change(**sections: Mapping[str, Any]) -> Params:
        content = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
        for changes in (tiny, sections):
            for section, values in changes.items():
                content[section].update(values)
        return Params.model_validate(content)

    return change


@pytest.fixture(scope="session")
def make_index() -> Callable[..., pd.DataFrame]:
    """`make_index({"a": (3, 2)})`: an index where case a has 3 IDC- and 2 IDC+ patches."""

    def make(cases: Mapping[str, tuple[int, int]]) -> pd.DataFrame:
        rows = [
            {"case": case, "x": 50 * (i % 8) + 1, "y": 50 * (i // 8) + 1, "label": int(i >= neg)}
            for case, (neg, pos) in cases.items()
            for i in range(neg + pos)
        ]
        index = pd.DataFrame(rows).astype({"x": "int32", "y": "int32", "label": "int8"})
        return index.assign(
            height_px=np.int16(50),
            width_px=np.int16(50),
            sha256="0" * 64,
            sliver=False,
            near_blank=False,
            blank=False,
            out_of_focus=False,
            ink=False,
        )

    return make
