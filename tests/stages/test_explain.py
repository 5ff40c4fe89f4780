"""The stage explain on a tiny untrained network."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from idc.core import layout
from idc.core.checksums import write_sums
from idc.core.errors import InputError
from idc.core.files import load_json, save_json
from idc.data.images import to_images
from idc.data.tables import PREDICTIONS_SCHEMA, save_table
from idc.evaluation.threshold.operating_point import OperatingPoint
from idc.explain.panels.sheets import draw_sheet
from idc.models.bundle import load_model, save_bundle
from idc.models.spec import digest_bundle
from idc.stages import explain
from tests.random_networks import random_fusion, tiny_spec

BACKBONES = ["test_resnet", "test_efficientnet"]
SPEC = tiny_spec(BACKBONES, num_training_patches=[5, 5])
CHEAP = {
    "methods": ["input_x_gradient", "eigen_cam", "layer_cam"],
    "num_reference": 8, "num_per_group": 2, "num_slides": 0,
}  # fmt: skip
SCORES = {"num_mosaics": 4}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A model, four test cases of 25 patches, half of them IDC+, and one of val."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("idc.explain.scores.table._MOSAIC_CONFIDENCE", 0.6)
    torch.manual_seed(2)
    model = random_fusion(BACKBONES, dropout=0.0)
    size = sum(backbone.num_features for backbone in model.branches)
    history = pd.DataFrame({"epoch": [1]})
    save_bundle(layout.BUNDLE, model.state_dict(), SPEC, history, torch.zeros(size))
    draw_predictions()
    return tmp_path


def draw_predictions(num_cases=5, edge=5):
    rng = np.random.default_rng(5)
    count = edge * edge
    column, row = (each.ravel() for each in np.meshgrid(np.arange(edge), np.arange(edge)))
    parts = [
        pd.DataFrame(
            {
                "row": count * number + np.arange(count),
                "case": f"case{number}",
                "x": (50 * column + 1).astype(np.int32),
                "y": (50 * row + 1).astype(np.int32),
                "split": "test" if number else "val",
                "in_manifest": False,
                "sliver": False,
                "mean_optical_density": rng.uniform(0.1, 0.6, count),
                "white_share": 0.0,
                "y_true": (np.arange(count) % 2).astype(np.int8),
                "logit": rng.normal(size=count).astype(np.float32),
            }
        )
        for number in range(num_cases)
    ]
    table = pd.concat(parts, ignore_index=True).astype({"case": "str", "split": "str"})
    save_table(layout.PREDICTIONS, table, PREDICTIONS_SCHEMA)
    layout.PATCHES.mkdir(parents=True, exist_ok=True)
    np.save(layout.PIXELS, rng.integers(0, 256, (len(table), 50, 50, 3), dtype=np.uint8))
    decide_at(0.5)


def decide_at(threshold):
    OperatingPoint(
        slope=1.0, intercept=0.0, threshold=threshold, threshold_low=threshold,
        threshold_high=threshold, threshold_rule="youden", prior_shift=0.0,
        model_digest=digest_bundle(layout.BUNDLE), d4_average=False,
    ).save(layout.OPERATING_POINT)  # fmt: skip


def count_errors():
    table = pd.read_parquet(layout.PREDICTIONS)
    test = table[table["split"] == "test"]
    return int(((test["logit"] >= 0) != (test["y_true"] == 1)).sum())


def test_run_then_there_are_tables_and_a_sheet_per_group_and_source(folder, change_params, caplog):
    caplog.set_level("INFO")
    explain.run(change_params(explain=CHEAP))
    names = {path.name for path in layout.EXPLAIN.iterdir()}
    groups = (
        "reference_positive",
        "reference_negative",
        *(f"errors_{g}" for g in ("fp", "fn", "tp", "tn")),
    )
    sheets = {f"{group}_{source}.png" for group in groups for source in (*BACKBONES, "fused")}
    groups_of_errors = {"error_groups.json", "error_groups_fp.png", "error_groups_fn.png"}
    assert names == sheets | {"reference.csv", "errors.csv"} | groups_of_errors
    num_errors = sum(group["num_patches"] for group in load_json(layout.ERROR_GROUPS))
    assert num_errors == count_errors()
    assert "no method is scored" in caplog.text
    reference = pd.read_csv(layout.EXPLAIN / "reference.csv", dtype={"case": "str"})
    errors = pd.read_csv(layout.EXPLAIN / "errors.csv")
    assert len(reference) == len(errors) == 8
    assert {"y_score", "stain", *(f"contribution_{name}" for name in BACKBONES)} <= set(reference)
    assert "case0" not in set(reference["case"]), "the panel is of the test set alone"
    times = load_json(layout.EXPLAIN_TIMES)
    assert times["model_digest"] == digest_bundle(layout.BUNDLE)
    assert set(times["seconds_per_patch"]) == set(CHEAP["methods"])
    assert all(seconds > 0 for seconds in times["seconds_per_patch"].values())
    assert "LayerCAM: " in caplog.text
    assert "s per patch" in caplog.text


def test_run_when_patches_are_called_idc_negative_then_cams_also_explain_the_negated_logit(
    folder, change_params, monkeypatch
):
    sheets = {}

    def keep(heading, labels, pixels, columns):
        sheets[heading] = columns
        return draw_sheet(heading, labels, pixels, columns)

    monkeypatch.setattr(explain, "draw_sheet", keep)
    explain.run(change_params(explain=CHEAP))
    negated = {
        heading: [column for column in columns if column.meaning == "against"]
        for heading, columns in sheets.items()
    }
    for group in (
        "IDC+, predicted IDC- (false negatives)",
        "IDC-, predicted IDC- (true negatives)",
    ):
        (column,) = negated[f"{group}: fused"]
        assert column.title == "LayerCAM (negated)", "signed maps show what speaks against anyway"
        assert np.isfinite(column.maps).all()
        plain = next(each for each in sheets[f"{group}: fused"] if each.title == "LayerCAM")
        assert not np.allclose(column.maps, plain.maps)
    for group in (
        "IDC-, predicted IDC+ (false positives)",
        "IDC+, predicted IDC+ (true positives)",
    ):
        assert negated[f"{group}: fused"] == []


@pytest.mark.slow
def test_run_when_scores_are_wanted_then_they_are_there_and_the_same_each_time(
    folder, change_params
):
    scored = {**CHEAP, "num_reference": 4, "methods": ["eigen_cam"], **SCORES}
    contents = []
    for _ in range(2):
        explain.run(change_params(explain=scored))
        contents.append(layout.EXPLAIN_SCORES.read_bytes())
    assert contents[0] == contents[1]
    scores = load_json(layout.EXPLAIN_SCORES)
    assert scores["num_patches"] == 4
    assert scores["mosaics"]["num_mosaics"] == 4
    assert (layout.EXPLAIN / "pointing.png").exists()


def test_run_when_nothing_is_wrong_then_there_are_no_groups_of_errors(
    folder, change_params, caplog
):
    caplog.set_level("INFO")
    table = pd.read_parquet(layout.PREDICTIONS)
    right = table.assign(logit=(4.0 * table["y_true"] - 2.0).astype("float32"))
    save_table(layout.PREDICTIONS, right, PREDICTIONS_SCHEMA)
    explain.run(change_params(explain={**CHEAP, "methods": ["eigen_cam"]}))
    assert load_json(layout.ERROR_GROUPS) == []
    assert not list(layout.EXPLAIN.glob("error_groups_*.png"))
    assert "no test patch is IDC-, predicted IDC+: no groups of them" in caplog.text


@pytest.mark.slow
def test_run_when_repeated_then_every_byte_is_the_same(folder, change_params):
    contents = []
    for _ in range(2):
        explain.run(change_params(explain=CHEAP))
        contents.append({p.name: p.read_bytes() for p in layout.EXPLAIN.iterdir()})
    assert contents[0] == contents[1]


def test_run_when_nothing_is_called_idc_then_says_which_groups_are_empty(
    folder, change_params, caplog
):
    caplog.set_level("INFO")
    decide_at(1.0)
    explain.run(change_params(explain=CHEAP))
    assert not list(layout.EXPLAIN.glob("errors_?p_*.png"))
    assert list(layout.EXPLAIN.glob("errors_fn_*.png"))
    for meaning in ("(false positives)", "(true positives)"):
        assert f"{meaning}: no sheet of it in the errors panel" in caplog.text


def test_run_when_a_case_is_complete_then_draws_its_slide(folder, change_params):
    draw_predictions(num_cases=2, edge=21)
    explain.run(change_params(explain={**CHEAP, "num_slides": 3, "methods": ["eigen_cam"]}))
    assert [path.name for path in layout.EXPLAIN.glob("slide_*")] == ["slide_case1.png"]


def test_run_when_the_network_gives_no_number_then_names_the_patch_and_writes_nothing(
    folder, change_params
):
    path = layout.BUNDLE / "model.safetensors"
    weights = load_file(path)
    weights["backbones.1.net.conv_head.weight"][:] = torch.nan
    save_file(weights, path)
    write_sums(layout.BUNDLE)
    decide_at(0.5)
    with pytest.raises(InputError, match=r"case case\d, x\d+ y\d+: .* of test_efficientnet is not"):
        explain.run(change_params(explain=CHEAP))
    assert not layout.EXPLAIN.exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"cam_layers": {"resnet50": "layer3"}},
            "the model has no backbone resnet50; it has test_",
        ),
        ({"cam_layers": {"test_resnet": "layer9"}}, "test_resnet has no layer 'layer9'"),
    ],
)
def test_run_when_a_parameter_names_what_is_not_there_then_says_what_is(
    folder, change_params, changes, says
):
    with pytest.raises(InputError, match=says):
        explain.run(change_params(explain={**CHEAP, **changes}))


def test_run_when_the_folder_holds_another_architecture_then_says_so_in_one_line(
    folder, change_params
):
    spec = load_json(layout.BUNDLE / "spec.json")
    others = {key: spec[key][::-1] for key in ("backbones", "architectures")}
    save_json(layout.BUNDLE / "spec.json", spec | others)
    write_sums(layout.BUNDLE)
    decide_at(0.5)
    with pytest.raises(InputError, match="does not hold this network") as raised:
        explain.run(change_params(explain=CHEAP))
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.slow
def test_run_when_there_is_a_texture_member_then_the_tables_hold_its_contribution(
    folder, change_params, draw_texture
):
    model, spec = load_model(layout.BUNDLE)
    model.join_texture(draw_texture(32))
    size = sum(member.num_features for member in model.members)
    save_bundle(
        layout.BUNDLE, model.state_dict(), replace(spec, texture_member=True),
        pd.DataFrame({"epoch": [1]}), torch.zeros(size),
    )  # fmt: skip
    decide_at(0.5)
    explain.run(change_params(explain={**CHEAP, **SCORES}))
    reference = pd.read_csv(layout.EXPLAIN / "reference.csv")
    names = [name for name in reference.columns if name.startswith("contribution_")]
    assert names == [f"contribution_{name}" for name in (*BACKBONES, "texture")]
    pixels = np.load(layout.PIXELS)[reference["row"]]
    with torch.inference_mode():
        logit = model(to_images(torch.from_numpy(pixels), size_px=32, device="cpu"))
        constant = model.head[-1].bias.item()
    total = reference[names].sum(axis=1) + constant
    np.testing.assert_allclose(total, logit, rtol=0.01, atol=1e-4)
    assert reference["contribution_texture"].std() > 0
    assert not list(layout.EXPLAIN.glob("*_texture.png"))
    scores = load_json(layout.EXPLAIN_SCORES)
    assert set(scores["sanity"]["similarity"]["eigen_cam"]) == {*BACKBONES, "fused"}
