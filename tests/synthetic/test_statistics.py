"""What synthetic archives must have in common with the published one, and null ones with none."""

import re
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from idc.data.patches import PATCH_SIZE_PX
from idc.evaluation.statistics.bootstrap import Bootstrap, Estimate, bootstrap_metrics
from idc.synthetic import ArchivePlan, create_archive
from idc.synthetic.layout import burden_quantile, draw_null_labels

NAME = re.compile(r".*/(\d+)_idx5_x(\d+)_y(\d+)_class([01])\.png")
COLOUR = ["red", "green", "blue", "red_sd", "green_sd", "blue_sd"]
QUARTERS = [f"{channel}_{quarter}" for quarter in range(4) for channel in ("red", "green", "blue")]


def measure_patches(path: Path) -> pd.DataFrame:
    """One row per patch: its name, its size and what its colours are."""
    with zipfile.ZipFile(path) as archive:
        rows = [_measure(member, archive.read(member)) for member in archive.namelist()]
    names = ["case", "x", "y", "label", "height_px", "width_px", "white", *COLOUR, *QUARTERS]
    return pd.DataFrame(rows, columns=names)


def _measure(member: str, png: bytes) -> list:
    case, *numbers = NAME.fullmatch(member).groups()
    pixels = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR_RGB)
    mean, sd = cv2.meanStdDev(pixels)
    quarters = cv2.resize(pixels, (2, 2), interpolation=cv2.INTER_AREA)
    white = float(np.mean(pixels.min(axis=2) > 220))
    size = pixels.shape[:2]
    return [case, *map(int, numbers), *size, white, *mean[:, 0], *sd[:, 0], *quarters.ravel()]


def agreement(patches: pd.DataFrame) -> float:
    """How often two patches that share an edge carry one label."""
    places = zip(patches["case"], patches["x"], patches["y"], strict=True)
    labels = dict(zip(places, patches["label"], strict=True))
    return float(
        np.mean(
            [
                label == labels[neighbour]
                for (case, x, y), label in labels.items()
                for neighbour in ((case, x + PATCH_SIZE_PX, y), (case, x, y + PATCH_SIZE_PX))
                if neighbour in labels
            ]
        )
    )


# --- real ---


@pytest.fixture(scope="module", params=[1, 2])
def real(request, tmp_path_factory) -> pd.DataFrame:
    path = tmp_path_factory.mktemp("real") / "archive.zip"
    create_archive(
        path,
        ArchivePlan(
            num_cases=60, patches_per_case=200, seed=request.param, difficulty="real", nested=False
        ),
    )
    return measure_patches(path)


@pytest.fixture
def slivers(real) -> pd.DataFrame:
    return real[(real["height_px"] != PATCH_SIZE_PX) | (real["width_px"] != PATCH_SIZE_PX)]


@pytest.mark.slow
def test_create_archive_when_real_then_neighbours_agree_as_often_as_published(real):
    assert 0.94 < agreement(real) < 0.97


@pytest.mark.slow
def test_create_archive_when_real_then_burden_is_spread_as_published(real):
    burden = real.groupby("case")["label"].mean()
    assert burden.mean() == pytest.approx(0.31, abs=0.04)
    assert burden.std() == pytest.approx(0.21, abs=0.04)


@pytest.mark.slow
def test_create_archive_when_real_then_a_few_cases_have_no_idc(real):
    assert 1 <= (real.groupby("case")["label"].sum() == 0).sum() <= 4


@pytest.mark.slow
def test_create_archive_when_real_then_one_patch_in_a_hundred_is_a_sliver(real, slivers):
    assert 0.007 < len(slivers) / len(real) < 0.013


@pytest.mark.slow
def test_create_archive_when_real_then_slivers_are_hardly_ever_idc(slivers):
    assert slivers["label"].mean() <= 0.03


@pytest.mark.slow
def test_create_archive_when_real_then_some_slivers_are_a_few_pixels_thin(slivers):
    thickness_px = slivers[["height_px", "width_px"]].min(axis=1)
    assert thickness_px.min() < 6
    assert thickness_px.max() > 40


@pytest.mark.slow
def test_create_archive_when_real_then_near_blank_patches_are_as_frequent_as_published(real):
    assert 0.035 < (real["white"] > 0.75).mean() < 0.055


@pytest.mark.slow
def test_create_archive_when_real_then_near_blank_patches_are_idc_less_often(real):
    assert 0.02 < real.loc[real["white"] > 0.75, "label"].mean() < 0.6 * real["label"].mean()


@pytest.mark.slow
def test_create_archive_when_real_then_some_idc_is_over_half_white(real):
    assert 0.03 < (real.loc[real["label"] == 1, "white"] > 0.5).mean() < 0.13


@pytest.mark.slow
def test_create_archive_when_real_then_colour_separates_much_but_not_all(real):
    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced"))
    score = cross_val_predict(
        model,
        real[COLOUR],
        real["label"],
        groups=real["case"],
        cv=GroupKFold(5),
        method="decision_function",
    )
    assert 0.75 < roc_auc_score(real["label"], score) < 0.88


@pytest.mark.slow
def test_create_archive_when_real_then_some_benign_patches_are_darker_than_most_idc(real):
    idc = real["label"] == 1  # haematoxylin absorbs red
    assert (real.loc[~idc, "red"] < real.loc[idc, "red"].median()).mean() > 0.05


@pytest.mark.slow
def test_create_archive_when_real_then_some_idc_is_paler_than_most_benign_patches(real):
    idc = real["label"] == 1
    assert (real.loc[idc, "red"] > real.loc[~idc, "red"].median()).mean() > 0.05


@pytest.mark.slow
def test_create_archive_when_real_then_cases_are_stained_differently(real):
    stroma = real[(real["label"] == 0) & (real["white"] < 0.1)].groupby("case")["green"]
    assert stroma.mean().std() > stroma.std().mean() / 2


# --- null ---


def test_draw_null_labels_when_drawn_often_then_no_cell_is_likelier_than_others():
    tissue = np.hypot(*np.mgrid[-7:8, -7:8]) < 7.3
    rng = np.random.default_rng(0)
    often = np.mean([draw_null_labels(rng, tissue, 0.2) for _ in range(2000)], axis=0)
    inner = cv2.erode(tissue.astype(np.uint8), np.ones((3, 3))) == 1
    assert often[inner].mean() == pytest.approx(0.2, abs=0.01)
    assert often[tissue & ~inner].mean() == pytest.approx(0.2, abs=0.01)


def test_draw_null_labels_when_drawn_then_holds_the_burden_within_the_tissue():
    tissue = np.hypot(*np.mgrid[-7:8, -7:8]) < 7.3
    labels = draw_null_labels(np.random.default_rng(0), tissue, 0.4)
    assert labels.sum() == round(0.4 * tissue.sum())
    assert not labels[~tissue].any()


def test_burden_quantile_when_taken_over_all_places_then_is_spread_as_published():
    burden = [burden_quantile(place) for place in np.linspace(0.0005, 0.9995, 1000)]
    assert np.mean(burden) == pytest.approx(0.31, abs=0.01)
    assert np.std(burden) == pytest.approx(0.21, abs=0.01)


@pytest.fixture(scope="module", params=["texture", "real"])
def null(request, tmp_path_factory) -> pd.DataFrame:
    path = tmp_path_factory.mktemp("null") / "archive.zip"
    create_archive(
        path,
        ArchivePlan(
            num_cases=30,
            patches_per_case=100,
            seed=1,
            difficulty=request.param,
            null=True,
            nested=False,
        ),
    )
    return measure_patches(path)


def auroc_of_trees(patches: pd.DataFrame, learns: np.ndarray) -> Estimate:
    """AUROC of trees on colours, learnt on some patches and measured on the others, by case."""
    features, labels = patches[COLOUR + QUARTERS].to_numpy(), patches["label"].to_numpy()
    trees = ExtraTreesClassifier(
        150, min_samples_leaf=3, class_weight="balanced", random_state=0
    ).fit(features[learns], labels[learns])
    return bootstrap_metrics(
        labels[~learns],
        trees.predict_proba(features[~learns])[:, 1],
        patches["case"].to_numpy()[~learns],
        0.5,
        Bootstrap(200, 0),
    )["auroc"]


def test_create_archive_when_labels_are_null_then_a_model_learns_nothing_of_other_cases(null):
    learns = null["case"].astype(int).to_numpy() % 2 == 0
    estimate = auroc_of_trees(null, learns)
    assert estimate.low < 0.5 < estimate.high


@pytest.mark.slow
def test_create_archive_when_labels_are_null_then_a_random_split_of_patches_seems_to_learn(null):
    learns = np.random.default_rng(0).random(len(null)) < 0.8
    estimate = auroc_of_trees(null, learns)
    assert estimate.value > 0.6
    assert estimate.low > 0.5


@pytest.mark.slow
def test_create_archive_when_labels_are_null_then_they_are_contiguous(null):
    shares = null.groupby("case")["label"].mean()
    by_chance = (shares**2 + (1 - shares) ** 2).mean()
    assert agreement(null) > by_chance + 0.2


@pytest.mark.slow
def test_create_archive_when_labels_are_null_then_burden_is_spread_as_ever(null):
    burden = null.groupby("case")["label"].mean()
    assert burden.mean() == pytest.approx(0.31, abs=0.04)
    assert burden.std() == pytest.approx(0.21, abs=0.04)
