"""What holds of a finished pipeline: it is run once by DVC, then looked at, changed and repeated.

The tests share the run and leave it as they found it.
"""

import hashlib
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import yaml
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from idc.core.files import load_json
from idc.core.layout import PUBLISHED
from idc.runs.workspace import copy_project, override_params, stage_environment
from idc.stages import STAGES
from idc.tracking.chosen_metrics import MAX_METRICS
from tests.small_run import SMALL

ROOT = Path(__file__).parents[2]
# two backbones, the texture member, all baselines of the defaults and scored methods: what bytes
# might differ by
OVERRIDES = {key: value for key, value in SMALL.items() if key != "baselines.names"} | {
    "model.backbones": ["test_resnet", "test_efficientnet"],
    "model.texture_member": True,
    "explain.methods": ["integrated_gradients", "grad_cam"],
    "explain.num_reference": 6,
    "explain.num_mosaics": 2,
}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


class Project:
    """A small copy of the project with its own cache, store and Prefect home."""

    def __init__(self, folder: Path) -> None:
        self.folder = copy_project(ROOT, folder, OVERRIDES)
        self._store = f"sqlite:///{self.folder}/mlruns/mlflow.db"
        self._environment = stage_environment(self.folder) | {
            "PREFECT_HOME": str(folder / ".prefect"),
            "MLFLOW_TRACKING_URI": self._store,
        }
        self._environment.pop("PREFECT_API_URL", None)
        size = ("--cases", "16", "--patches-per-case", "16")
        self.run("idc", "synth", "data/raw/synthetic.zip", *size)

    def run(self, module: str, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=self.folder, env=self._environment, capture_output=True, text=True,
        )  # fmt: skip
        output = done.stdout + done.stderr
        assert done.returncode == 0, f"{module} {arguments}: {output[-3000:]}"
        return output

    def client(self) -> MlflowClient:
        return MlflowClient(self._store, self._store)

    def published(self) -> dict[str, str]:
        record: dict[str, str] = load_json(self.folder / PUBLISHED)
        return record

    def runs(self) -> list[Run]:
        client = self.client()
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        return list(client.search_runs(experiments))

    def digest_outputs(self) -> dict[str, str]:
        """Return the SHA-256 of every file that a stage but publish wrote."""
        return {
            path.relative_to(self.folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for place in ("data", "models", "reports")
            for path in (self.folder / place).rglob("*")
            if path.is_file() and "raw" not in path.parts and path != self.folder / PUBLISHED
        }


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    project = Project(tmp_path_factory.mktemp("finished") / "project")
    project.run("dvc", "repro")
    with pytest.MonkeyPatch.context() as patch:
        # a connection that is kept open would go on reading a store that has been removed
        patch.setenv("MLFLOW_SQLALCHEMYSTORE_POOLCLASS", "NullPool")
        yield project


def test_pipeline_when_nothing_changed_then_neither_dvc_nor_the_flow_does_anything(project):
    before = project.published(), len(project.runs())
    assert "Running stage" not in project.run("dvc", "repro")
    output = project.run("idc", "pipeline")
    for stage in STAGES:
        assert f"Stage '{stage}' didn't change, skipping" in output, f"{stage} ran again"
    assert (project.published(), len(project.runs())) == before
    assert "up to date" in project.run("dvc", "status")


def assert_run_is_whole(project: Project) -> None:
    """The published run tells its data, parameters, metrics, epochs and files."""
    client, run_id = project.client(), project.published()["run_id"]
    run = client.get_run(run_id)
    lock = yaml.safe_load((project.folder / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    raw = next(dep["md5"] for dep in lock["ingest"]["deps"] if dep["path"] == "data/raw")
    manifest = lock["sample"]["outs"][0]["md5"]
    assert {item.dataset.digest for item in run.inputs.dataset_inputs} == {raw, manifest}
    assert run.data.params["model.size_px"] == "32"
    assert {"class_weights/0", "test/auroc", "test/auroc_low"} <= set(run.data.metrics)
    assert run.data.tags["git_commit"] == "none"
    assert len(client.get_metric_history(run_id, "val/epoch_auroc")) == 1
    files = {item.path for item in client.list_artifacts(run_id)}
    assert {"params.yaml", "dvc.lock", "plots", "explain", "index.html", "model_card.md"} <= files
    assert len(run.data.metrics) <= MAX_METRICS
    tables = {item.path for item in client.list_artifacts(run_id, "tables")}
    assert {"tables/metrics.json", "tables/subgroups.json"} <= tables
    assert "Test set" in run.data.tags["mlflow.note.content"]


def assert_model_scores(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The registered model answers for raw PNG bytes."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", project._store)
    with zipfile.ZipFile(project.folder / "data/raw/synthetic.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".png")][:3]
        images = [archive.read(name) for name in names]
    model = mlflow.pyfunc.load_model("models:/idc-fusion@challenger")
    scored = model.predict(pd.DataFrame({"image": images}))
    assert list(scored.columns) == ["probability", "prediction"]
    assert len(scored) == 3
    assert scored["probability"].between(0, 1).all()
    assert scored["prediction"].isin([0, 1]).all()


def test_result_when_published_then_its_run_is_whole_and_its_model_scores_files(
    project, monkeypatch
):
    assert_run_is_whole(project)
    assert_model_scores(project, monkeypatch)


def test_repro_when_a_parameter_of_evaluate_changes_and_returns_then_nothing_is_trained(project):
    first, params = project.published(), project.folder / "params.yaml"
    unchanged = params.read_text(encoding="utf-8")
    override_params(params, {"evaluate.threshold_rule": "f1"})
    output = project.run("dvc", "repro")
    assert "Running stage 'evaluate'" in output
    assert "Running stage 'train'" not in output
    assert project.published()["run_id"] != first["run_id"]
    assert len(project.runs()) == 2
    params.write_text(unchanged, encoding="utf-8")
    project.run("dvc", "repro")
    assert project.published()["run_id"] == first["run_id"]
    assert len(project.runs()) == 2


def test_stages_when_run_again_elsewhere_then_every_output_has_the_same_bytes(project, tmp_path):
    other = Project(tmp_path / "again")
    for stage in STAGES[:-1]:
        other.run("idc", stage)
    ours, theirs = project.digest_outputs(), other.digest_outputs()
    assert ours == theirs, sorted(name for name in ours if ours[name] != theirs.get(name))
    assert "models/fusion/model.safetensors" in ours


def test_store_when_wiped_then_publishing_once_more_brings_run_and_model_back(project, monkeypatch):
    shutil.rmtree(project.folder / "mlruns")
    project.run("idc", "publish")
    assert len(project.runs()) == 1
    assert_run_is_whole(project)
    assert_model_scores(project, monkeypatch)
