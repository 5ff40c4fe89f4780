"""A registered model where only its own logged requirements are installed."""

import importlib.metadata
import subprocess
from pathlib import Path
from urllib.parse import unquote, urlsplit

import cv2
import mlflow
import numpy as np
import pandas as pd
import pytest

from idc.core.environment import QUIET
from idc.tracking.connection import tracking_uri
from idc.tracking.publishing import publish_result
from tests.own_environment import link_requirements

pytestmark = pytest.mark.slow  # a store with its tables, and ten thousand links

SCORE = """
import importlib.metadata, sys
import mlflow, pandas as pd
model = mlflow.pyfunc.load_model(sys.argv[1])
image = open(sys.argv[2], "rb").read()
table = model.predict(pd.DataFrame({"image": [image]}))
import idc
print(idc.__file__)
print(*(each.name for each in importlib.metadata.distributions()))
print(table["probability"][0], table["prediction"][0])
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory, result):
    """Folder of a registered version."""
    root = tmp_path_factory.mktemp("root")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "")
        number = publish_result(result, root).model_version
        client = mlflow.MlflowClient(tracking_uri(root), tracking_uri(root))
        version = client.get_model_version(result.params.publish.model_name, number)
    return Path(unquote(urlsplit(version.source).path))


def test_registered_model_when_only_its_own_requirements_are_installed_then_scores_alike(
    model, tmp_path
):
    pixels = np.random.default_rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8)
    image = cv2.imencode(".png", pixels)[1].tobytes()
    (tmp_path / "patch.png").write_bytes(image)
    here = mlflow.pyfunc.load_model(str(model)).predict(pd.DataFrame({"image": [image]}))
    python = link_requirements(
        tmp_path / "venv", (model / "requirements.txt").read_text().splitlines()
    )
    done = subprocess.run(
        [python, "-c", SCORE, model, tmp_path / "patch.png"],
        cwd=tmp_path, env=QUIET | {"HOME": str(tmp_path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    code, installed, scored = done.stdout.splitlines()[-3:]
    assert Path(code).is_relative_to(model), "the model brings its own code"
    missing = {each.name for each in importlib.metadata.distributions()} - set(installed.split())
    assert {"isal", "albumentations", "dvc", "prefect", "captum", "grad-cam"} <= missing
    probability, prediction = scored.split()
    assert float(probability) == pytest.approx(here["probability"][0], abs=1e-6)
    assert int(prediction) == here["prediction"][0]


def test_requirements_when_another_version_is_asked_than_is_installed_then_says_so(tmp_path):
    with pytest.raises(ValueError, match=r"numpy==1\.0 is asked, .* is installed"):
        link_requirements(tmp_path / "venv", ["numpy==1.0"])
