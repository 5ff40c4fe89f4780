"""The stages sample and split in a folder of their own, on a pool without an archive."""

import hashlib

import numpy as np
import pandas as pd
import pytest

from idc.core.errors import InputError
from idc.core.files import load_json
from idc.core.layout import (
    CASE_LISTS,
    CASE_SUBSETS,
    INDEX,
    LABEL_OVERRIDES,
    LEAKAGE_REPORT,
    MANIFEST,
    PIXELS,
    SPLITS,
)
from idc.data.tables import INDEX_SCHEMA, SPLITS_SCHEMA, load_table, save_table
from idc.stages import sample, split

CASES = {f"c{number:02d}": (12 + number % 9, 4 + number % 5) for number in range(24)}
MORE = {f"d{number:02d}": (14, 6) for number in range(8)}


@pytest.fixture
def project(tmp_path, monkeypatch, make_index):
    """`project(cases)`: the pool of these cases in a folder that the stages then run in."""
    monkeypatch.chdir(tmp_path)

    def write(cases, equal_rows=()):
        index = make_index(cases)
        pixels = np.random.default_rng(0).integers(0, 255, (len(index), 50, 50, 3), dtype=np.uint8)
        for one, other in equal_rows:
            pixels[other] = pixels[one]
        index["sha256"] = [hashlib.sha256(patch.tobytes()).hexdigest() for patch in pixels]
        save_table(INDEX, index, INDEX_SCHEMA)
        np.save(PIXELS, pixels)
        LABEL_OVERRIDES.write_text("case,x,y,label,reason\n")

    return write


@pytest.fixture
def run(change_params):
    def run_stages(num_patches="all", seed=17, **split_changes):
        params = change_params(
            sample={"num_patches": num_patches, "exclude_flags": ()},
            split=split_changes,
            seeds={"data": seed},
        )
        sample.run(params)
        split.run(params)
        splits = load_table(SPLITS, SPLITS_SCHEMA)
        return splits.groupby("case")["split"].first().to_dict()

    return run_stages


def test_run_when_cases_are_assigned_then_remembers_the_subset_of_each(project, run):
    project(CASES)
    subsets = run()
    table = pd.read_csv(CASE_SUBSETS, comment="#")
    assert dict(zip(table["case"], table["subset"], strict=True)) == subsets


def test_run_when_a_case_has_no_manifest_patch_then_its_subset_is_remembered_too(project, run):
    project(CASES)
    assert len(run(num_patches=10)) < len(CASES)
    table = pd.read_csv(CASE_SUBSETS, comment="#")
    assert set(table["case"]) == set(CASES)


def test_run_when_new_cases_arrive_then_old_ones_stay_and_new_ones_join(project, run):
    project(CASES)
    before = run()
    project(CASES | MORE)
    after = run()
    assert {case: after[case] for case in CASES} == before
    assert set(after) == set(CASES | MORE)


def test_run_when_a_case_leaves_and_comes_back_then_it_has_its_subset_again(project, run):
    project(CASES)
    before = run()
    project({case: counts for case, counts in CASES.items() if case != "c03"})
    run()
    project(CASES)
    assert run() == before


def test_run_when_run_twice_then_every_byte_is_the_same(project, run):
    project(CASES)
    paths = (MANIFEST, SPLITS, LEAKAGE_REPORT, CASE_SUBSETS)
    run()
    before = [path.read_bytes() for path in paths]
    run()
    assert [path.read_bytes() for path in paths] == before


def test_run_when_the_seed_changes_then_refuses_and_leaves_every_subset(project, run):
    project(CASES)
    run()
    before = CASE_SUBSETS.read_bytes(), SPLITS.read_bytes()
    with pytest.raises(InputError, match="was assigned by `seed 17"):
        run(seed=18)
    assert (CASE_SUBSETS.read_bytes(), SPLITS.read_bytes()) == before


@pytest.mark.parametrize(
    "changes", [{"mode": "patch"}, {"folds": {"num_folds": 4, "test_fold": 1}}]
)
def test_run_when_subsets_are_not_for_good_then_their_file_stays_as_it_is(project, run, changes):
    project(CASES)
    run()
    before = CASE_SUBSETS.read_bytes()
    run(seed=99, **changes)
    assert CASE_SUBSETS.read_bytes() == before


def test_run_when_an_identical_patch_is_on_two_subsets_then_stops_and_writes_nothing(project, run):
    project(CASES)
    subsets = run()
    for path in (SPLITS, LEAKAGE_REPORT):
        path.unlink()
    rows = load_table(INDEX, INDEX_SCHEMA)["case"].map(subsets)
    pair = (int((rows == "train").idxmax()), int((rows == "test").idxmax()))
    project(CASES, equal_rows=[pair])
    with pytest.raises(InputError, match="have the very same pixels"):
        run()
    assert not SPLITS.exists()


def test_run_when_split_by_patch_then_warns_loudly_and_measures(project, run, caplog):
    project(CASES, equal_rows=[(0, 100), (1, 101), (2, 102), (3, 103)])
    run(mode="patch")
    assert "LEAKS: 24 cases are on two subsets" in caplog.text
    leakage = load_json(LEAKAGE_REPORT)
    assert leakage["mode"] == "patch"
    assert leakage["share_touching_train"]["test"] > 0.5


def test_run_when_a_subset_of_many_cases_is_off_in_prevalence_then_says_so(project, run, caplog):
    cases = {f"c{number:02d}": (10, 10) if number < 25 else (18, 2) for number in range(75)}
    project(cases)
    run()
    assert "points from the pool's" not in caplog.text
    known = "".join(f"c{n:02d},{'val' if n < 25 else 'train'}\n" for n in range(50))
    rule = CASE_SUBSETS.read_text().splitlines()[0]
    CASE_SUBSETS.write_text(f"{rule}\ncase,subset\n{known}")
    run()
    assert "val: 50.0 % IDC+ is" in caplog.text


def test_run_when_cases_are_excluded_then_they_get_no_subset_and_no_line(project, run):
    project(CASES)
    CASE_LISTS.mkdir(parents=True)
    (CASE_LISTS / "out.txt").write_text("c03\nc11\n")
    subsets = run(exclude="out.txt")
    assert set(subsets) == set(CASES) - {"c03", "c11"}
    assert set(pd.read_csv(CASE_SUBSETS, comment="#")["case"]) == set(subsets)
    num_cases = sum(subset["num_cases"] for subset in load_json(LEAKAGE_REPORT)["subsets"].values())
    assert num_cases == len(subsets)


def test_run_when_a_known_case_is_excluded_for_a_while_then_it_keeps_its_line(project, run):
    project(CASES)
    before = run()
    CASE_LISTS.mkdir(parents=True)
    (CASE_LISTS / "out.txt").write_text("c03\n")
    assert "c03" not in run(exclude="out.txt")
    assert run() == before


@pytest.mark.parametrize("changes", [{}, {"folds": {"num_folds": 4, "test_fold": 1}}])
def test_run_when_labels_are_corrected_then_train_learns_them_and_the_others_keep_the_archives(
    project, run, changes
):
    project(CASES)
    run(**changes)
    before = load_table(SPLITS, SPLITS_SCHEMA)
    # one of each subset, whole index rows: the first patch of the subset
    chosen = before.groupby("split").head(1)
    lines = [f"{p.case},{p.x},{p.y},{1 - p.label},seen again" for p in chosen.itertuples()]
    LABEL_OVERRIDES.write_text("\n".join(["case,x,y,label,reason", *lines]) + "\n")
    run(**changes)
    after = load_table(SPLITS, SPLITS_SCHEMA)
    pd.testing.assert_frame_equal(
        after.drop(columns="label"), before.drop(columns="label")
    )  # who learns and who is tested does not depend on corrections
    changed = after[after["label"] != before["label"]]
    assert changed["row"].tolist() == chosen.loc[chosen["split"] == "train", "row"].tolist()
    assert len(chosen) >= 3
    assert load_json(LEAKAGE_REPORT)["subsets"]["train"]["num_corrected_labels"] == 1


def test_run_when_split_by_patch_in_folds_then_warns_and_says_what_touches(project, run, caplog):
    project(CASES)
    run(mode="patch", folds={"num_folds": 4, "test_fold": 1})
    assert "split.mode patch LEAKS" in caplog.text
    leakage = load_json(LEAKAGE_REPORT)
    assert leakage["mode"] == "patch"
    assert leakage["share_touching_train"]["test"] > 0.5
    assert leakage["num_shared_cases"] == len(CASES)


def test_run_when_the_subsets_have_their_earlier_name_then_no_case_is_assigned_anew(project, run):
    project(CASES)
    before = run()
    earlier = CASE_SUBSETS.with_name("case_sides.csv")
    CASE_SUBSETS.rename(earlier)
    earlier.write_text(earlier.read_text().replace("case,subset", "case,side"))
    with pytest.raises(InputError, match=r"`git mv data/case_sides\.csv data/case_subsets\.csv`"):
        run()
    assert not CASE_SUBSETS.exists()
    earlier.rename(CASE_SUBSETS)
    assert run() == before
