import base64
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from idc.core.errors import InputError
from idc.evaluation.threshold.operating_point import OperatingPoint
from idc.models.bundle import load_model, save_bundle
from idc.models.scoring.patches import PatchScorer
from idc.models.spec import digest_bundle
from idc.serving.pyfunc_model import FusionModel
from tests.random_networks import random_fusion, tiny_spec

SPEC = tiny_spec()
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 50, 50, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("model") / "fusion"
    state = random_fusion(SPEC.backbones, dropout=0.0).state_dict()
    save_bundle(folder, state, SPEC, pd.DataFrame({"epoch": [1]}), torch.zeros(1))
    return folder


def make_point(model_digest, d4_average=False):
    return OperatingPoint(
        slope=1.0, intercept=0.0, threshold=0.5, threshold_low=0.4, threshold_high=0.6,
        threshold_rule="youden", prior_shift=0.0, model_digest=model_digest,
        d4_average=d4_average,
    )  # fmt: skip


def load_served(bundle, point, folder):
    point.save(folder / "point.json")
    served = FusionModel()
    artifacts = {"bundle": str(bundle), "operating_point": str(folder / "point.json")}
    served.load_context(SimpleNamespace(artifacts=artifacts))
    return served


def test_served_model_when_the_operating_point_is_of_another_model_then_refuses(bundle, tmp_path):
    with pytest.raises(InputError, match=f"model other.*model {digest_bundle(bundle)}"):
        load_served(bundle, make_point("other"), tmp_path)


@pytest.mark.parametrize("d4_average", [True, False])
def test_served_model_when_predict_averaged_or_not_then_scores_like_predict(
    bundle, tmp_path, d4_average
):
    point = make_point(digest_bundle(bundle), d4_average)
    served = load_served(bundle, point, tmp_path)
    images = [cv2.imencode(".png", patch[:, :, ::-1])[1].tobytes() for patch in PIXELS]
    table = served.predict(None, pd.DataFrame({"image": images}))

    def score(average):
        model, _ = load_model(bundle)
        scorer = PatchScorer(model, 32, 16, torch.device("cpu"))
        return point.score(scorer.score(PIXELS, np.arange(3), d4_average=average))

    assert np.abs(score(True) - score(False)).max() > 1e-4, "averaging must make a difference"
    np.testing.assert_allclose(table["probability"], score(d4_average), atol=1e-6)


@pytest.fixture
def served(bundle, tmp_path):
    return load_served(bundle, make_point(digest_bundle(bundle)), tmp_path)


PNG = cv2.imencode(".png", PIXELS[0])[1].tobytes()


@pytest.mark.parametrize(
    "image",
    [
        bytearray(PNG),
        base64.b64encode(PNG).decode(),
        base64.b64encode(PNG),
        np.bytes_(base64.b64encode(PNG)),  # as `inputs` and `instances` arrive at the server
        np.str_(base64.b64encode(PNG).decode()),
    ],
    ids=["bytearray", "text", "bytes of text", "numpy bytes", "numpy text"],
)
def test_served_model_when_an_image_comes_in_another_form_then_scores_it_alike(served, image):
    tables = [served.predict(None, pd.DataFrame({"image": [each]})) for each in (PNG, image)]
    pd.testing.assert_frame_equal(*tables)


def test_served_model_when_there_is_no_row_then_answers_with_none(served):
    table = served.predict(None, pd.DataFrame({"image": []}, index=pd.RangeIndex(0)))
    assert table.dtypes.astype(str).to_dict() == {"probability": "float64", "prediction": "int64"}
    assert len(table) == 0


@pytest.mark.parametrize(
    ("column", "says"),
    [
        ({"picture": [PNG]}, "no column is called image, there are picture"),
        (
            {"image": pd.Series(["\ud800"], dtype=object)},
            "image 0: is neither PNG nor JPEG, nor base64 of one",
        ),
        (
            {"image": [PNG, PIXELS[0].tolist()]},
            "image 1: is a list, not the bytes of a PNG or JPEG",
        ),
        ({"image": [None]}, "image 0: is a NoneType"),
        ({"image": ["a patch"]}, "image 0: is neither PNG nor JPEG, nor base64 of one"),
        ({"image": [b""]}, "image 0: is empty"),
        ({"image": [PNG[:40]]}, "image 0: holds fewer pixels than"),
    ],
)
def test_served_model_when_what_comes_is_no_image_then_says_which_and_why(served, column, says):
    with pytest.raises(InputError, match=says):
        served.predict(None, pd.DataFrame(column))


def test_served_model_when_two_columns_are_called_image_then_says_so(served):
    table = pd.DataFrame([[PNG, PNG]], columns=["image", "image"])
    with pytest.raises(InputError, match="more than one column is called image"):
        served.predict(None, table)


def test_served_model_when_a_request_is_scored_in_parts_then_gives_the_same_and_counts_on(
    served, monkeypatch
):
    images = [cv2.imencode(".png", patch)[1].tobytes() for patch in PIXELS]
    table = pd.DataFrame({"image": images}, index=[7, 3, 5])
    at_once = served.predict(None, table)
    monkeypatch.setattr("idc.serving.pyfunc_model._PATCHES_AT_ONCE", 2)
    in_parts = served.predict(None, table)
    pd.testing.assert_frame_equal(in_parts, at_once, atol=1e-6)
    with pytest.raises(InputError, match="image 2: is empty"):
        served.predict(None, pd.DataFrame({"image": [*images[:2], b""]}))
