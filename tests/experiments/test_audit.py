import numpy as np
import pandas as pd
import pytest
from scipy.special import logit

from idc.cli import main
from idc.core.errors import InputError
from idc.core.layout import INDEX, LABEL_OVERRIDES, PIXELS
from idc.data.manifest.label_overrides import load_label_overrides
from idc.data.tables import INDEX_SCHEMA, save_table
from idc.experiments.audit import audit_labels
from idc.experiments.folds import FOLDERS, RESULTS

CASES = {"a": (12, 12), "b": (6, 10), "007": (9, 3)}
WRONG = [2, 30, 45]


@pytest.fixture
def index(make_index):
    return make_index(CASES)


@pytest.fixture
def project(tmp_path, monkeypatch, index):
    (tmp_path / "dvc.yaml").touch()  # the mark of a project
    monkeypatch.chdir(tmp_path)
    write_patches(tmp_path, index)
    write_overrides(tmp_path)
    probability = np.where(index["label"] == 1, 0.8, 0.2)
    probability[WRONG] = [0.99, 0.03, 0.6]
    write_result(tmp_path, index, probability)
    return tmp_path


def write_patches(place, index):
    save_table(place / INDEX, index, INDEX_SCHEMA)
    np.save(place / PIXELS, np.zeros((len(index), 50, 50, 3), np.uint8))


def write_overrides(project, *lines):
    text = "\n".join(["case,x,y,label,reason", *lines]) + "\n"
    (project / LABEL_OVERRIDES).write_text(text)


def write_result(project, index, probability, fold=None):
    table = index[["case", "x", "y"]].assign(
        y_true=index["label"], logit=logit(probability),
        fold=pd.factorize(index["case"])[0] if fold is None else fold,
    )  # fmt: skip
    path = project / RESULTS / "base/predictions.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_parquet(path, index=False)


def audited(project):
    return pd.read_csv(project / RESULTS / "base/audit.csv", dtype={"case": str})


def test_audit_when_called_then_writes_list_sheet_and_page(project, index, capsys):
    assert main(["audit", "base"]) == 0
    assert capsys.readouterr().out.strip() == "reports/experiments/base/audit.md"
    found = audited(project)
    expected = index.loc[WRONG, ["case", "x", "y", "label"]].reset_index(drop=True)
    pd.testing.assert_frame_equal(found[list(expected)], expected, check_dtype=False)
    assert found["probability"].tolist() == pytest.approx([0.99, 0.03, 0.6], abs=1e-6)
    assert (project / RESULTS / "base/audit.png").read_bytes().startswith(b"\x89PNG")
    page = (project / RESULTS / "base/audit.md").read_text()
    assert "52 patches of 3 cases" in page
    assert "3 are likelier of the other label." in page
    assert "coarse contours" in page
    assert "| 0.9 | 2 | 2 | 0.0 |" in page  # 0.01 + 0.03
    assert "| 1 | a | 101 | 1 | IDC- | 0.9900 | 5, 0 |" in page


def test_audit_when_its_rows_are_copied_then_they_are_overrides_and_left_out_next_time(
    project, index
):
    audit_labels(project, "base")
    first, second, third = audited(project)["override"]
    write_overrides(project, first, third)
    overrides = load_label_overrides(project / LABEL_OVERRIDES, index)
    assert overrides["row"].tolist() == [WRONG[0], WRONG[2]]
    assert overrides["label"].tolist() == (1 - index.loc[[WRONG[0], WRONG[2]], "label"]).tolist()
    audit_labels(project, "base")
    assert audited(project)["override"].tolist() == [second]
    page = (project / RESULTS / "base/audit.md").read_text()
    assert "2 of them are overridden already and left out." in page


def test_audit_when_run_twice_then_every_byte_is_the_same(project):
    paths = [project / RESULTS / "base" / f"audit.{end}" for end in ("csv", "png", "md")]
    audit_labels(project, "base")
    before = [path.read_bytes() for path in paths]
    audit_labels(project, "base")
    assert [path.read_bytes() for path in paths] == before


def test_audit_when_only_a_fold_has_the_patches_then_takes_them_there(project, index):
    write_patches(project / FOLDERS / "base/fold-1", index)
    (project / PIXELS).unlink()
    audit_labels(project, "base")
    assert len(audited(project)) == len(WRONG)
    (project / FOLDERS / "base/fold-1" / PIXELS).unlink()
    with pytest.raises(InputError, match="holds the patches: run `dvc repro ingest`"):
        audit_labels(project, "base")


def test_audit_when_patches_were_assigned_to_the_folds_then_refuses(project, index):
    probability = np.full(len(index), 0.6)
    write_result(project, index, probability, fold=np.arange(len(index)) % 3)
    with pytest.raises(
        InputError, match=r"case 007 was tested in 3 folds: .* folds of whole cases"
    ):
        audit_labels(project, "base")


def test_audit_when_it_agrees_with_every_label_then_says_so(project, index):
    write_result(project, index, np.where(index["label"] == 1, 0.8, 0.2))
    with pytest.raises(InputError, match="agrees with every label"):
        audit_labels(project, "base")
