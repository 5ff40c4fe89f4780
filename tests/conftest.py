"""Shared ground of the tests: one thread, no network, tiny parameters and tiny data."""

import os

from idc.core.environment import QUIET

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ |= QUIET
os.environ.pop("MLFLOW_TRACKING_URI", None)

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import yaml

from idc.core.config import Params
from idc.ops.descendants import end_descendants_at_death

ROOT = Path(__file__).parents[1]

cv2.setNumThreads(1)


def pytest_configure(config: pytest.Config) -> None:
    """Leave no server or training of a test behind where the tests are interrupted or killed."""
    if not hasattr(config, "workerinput"):  # not again in each worker, which inherits the mark
        os.environ |= end_descendants_at_death(os.environ)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give a file to one worker, files with slow tests first.

    So what a file's tests share is made once, and no worker is left alone with a long file at the
    end. The files that share the database servers go together.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
    for item in items:
        shares_servers = "servers" in getattr(item, "fixturenames", ())
        group = "servers" if shares_servers else str(item.path.relative_to(ROOT))
        item.add_marker(pytest.mark.xdist_group(group))


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
        "model": {
            "backbones": ["test_resnet"],
            "pretrained": "none",
            "size_px": 32,
            "texture_member": False,  # whose windows take seconds, however few patches there are
        },
        "train": {"epochs": 2, "batch_size": 8, "precision": "fp32"},
        "baselines": {"names": []},
        "evaluate": {"num_replicates": 100},
        "explain": {"num_mosaics": 0},
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
def draw_texture() -> Callable[[int], Any]:
    """`draw_texture(32)`: a texture member for images of 32 px, of random filters and weights."""
    import torch

    from idc.models.networks.texture_member import TextureMember

    def draw(size_px: int) -> TextureMember:
        texture = TextureMember(size_px)
        generator = torch.Generator().manual_seed(0)
        filters = 0.3 * torch.randn(texture.filters.shape, generator=generator)
        filters -= filters.mean(dim=(1, 2, 3), keepdim=True)
        weight = 0.1 * torch.randn(texture.weight.shape, generator=generator)
        texture.load_state_dict({**texture.state_dict(), "filters": filters, "weight": weight})
        return texture

    return draw


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


@pytest.fixture(scope="session")
def result(tmp_path_factory: pytest.TempPathFactory, change_params: Callable[..., Params]) -> Any:
    """What a finished pipeline of two epochs would publish."""
    import torch

    from idc.evaluation.threshold.operating_point import OperatingPoint
    from idc.models.bundle import save_bundle
    from idc.models.networks.fusion import create_fusion
    from idc.models.spec import digest_bundle
    from idc.tracking.result import Result
    from tests.random_networks import tiny_spec

    history = pd.DataFrame(
        {
            "epoch": [1, 2],
            "train_loss": [0.7, 0.5],
            "val_auroc": [0.6, 0.8],
            "learning_rate": [1e-3, 1e-4],
        }
    )
    folder = tmp_path_factory.mktemp("result")
    params = change_params()
    model = create_fusion(params.model)
    spec = tiny_spec(
        dropout=0.2, aux_heads=True, num_training_patches=[4, 4], best_epoch=2, val_auroc=0.8
    )
    save_bundle(folder / "fusion", model.state_dict(), spec, history, torch.zeros(96))
    model_digest = digest_bundle(folder / "fusion")
    OperatingPoint(
        slope=1.0, intercept=0.0, threshold=0.5, threshold_low=0.4, threshold_high=0.6,
        threshold_rule="youden", prior_shift=0.0, model_digest=model_digest, d4_average=False,
    ).save(folder / "point.json")  # fmt: skip
    (folder / "card.md").write_text("card", encoding="utf-8")
    return Result(
        digest="r1",
        model_digest=model_digest,
        commit="abc",
        params=params,
        num_training_patches=(4, 4),
        figures={"test/auroc": 0.75},
        evaluation={"ablation": {"text": "", "members": [], "differences": {}}, "subgroups": []},
        scores=None,
        history=history,
        raw_digest="raw1",
        manifest_digest="manifest1",
        artifacts={"card.md": folder / "card.md"},
        model_card="card",
        bundle=folder / "fusion",
        operating_point=folder / "point.json",
    )
