import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idc.core.config import FoldsConfig, SplitConfig, SubsetFractions
from idc.core.errors import InputError
from idc.data.ranking import rank_patches
from idc.data.split.splitting import (
    assign_cases,
    assign_folds,
    assign_patch_folds,
    assign_patches,
    order_cases,
    split_patches,
)

CASES = {f"c{number:02d}": (10 + number, 5 + number % 7) for number in range(40)}
SEED = 17
FRACTIONS = {"val": 0.15, "gate": 0.0, "test": 0.25}
NO_LISTS = {"train": None, "val": None, "gate": None, "test": None}


def config(mode="case", **changes):
    values = {
        "fractions": FRACTIONS,
        "lists": NO_LISTS,
        "folds": None,
        "rest": "train",
        "exclude": None,
        "max_train_cases": None,
        "max_train_patches": None,
        **changes,
    }
    return SplitConfig(mode=mode, **values)


def split(index, chosen, folder=None, known=None):
    pool = index.rename_axis("row").reset_index()
    manifest = pool[pool["row"] % 2 == 0]
    return split_patches(index, manifest, chosen, SEED, case_lists=folder, case_subsets=known or {})


def subsets_by_case(splits):
    return splits.groupby("case")["split"].agg(set).to_dict()


@pytest.fixture
def index(make_index):
    return make_index(CASES)


@pytest.fixture
def lists(tmp_path):
    def write(**cases):
        for subset, names in cases.items():
            (tmp_path / f"{subset}.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
        return {subset: f"{subset}.txt" if subset in cases else None for subset in NO_LISTS}

    return write


def test_split_patches_when_cases_are_assigned_then_no_case_is_in_two_subsets(index):
    assert all(len(subsets) == 1 for subsets in subsets_by_case(split(index, config())).values())


def test_split_patches_when_cases_are_assigned_then_every_subset_nears_its_share(index):
    subsets = pd.Series(assign_cases(index, SubsetFractions(**FRACTIONS), 17))
    shares = index["case"].map(subsets).value_counts(normalize=True)
    assert shares["val"] == pytest.approx(0.15, abs=0.03)
    assert shares["test"] == pytest.approx(0.25, abs=0.03)


def test_split_patches_when_done_then_training_takes_manifest_rows_only(index):
    splits = split(index, config())
    assert splits.loc[splits["split"] == "train", "in_manifest"].all()


def test_split_patches_when_done_then_held_out_cases_keep_all_their_patches(index):
    splits = split(index, config())
    test = splits[splits["split"] == "test"]
    assert len(test) == index["case"].isin(test["case"]).sum()


def test_split_patches_when_done_then_rows_are_sorted_and_point_at_the_index(index):
    splits = split(index, config())
    assert splits["row"].is_monotonic_increasing
    assert (index.loc[splits["row"], "case"].to_numpy() == splits["case"]).all()


def test_split_patches_when_the_index_is_shuffled_then_assigns_the_same(index):
    shuffled = index.sample(frac=1.0, random_state=3).reset_index(drop=True)
    fractions = SubsetFractions(**FRACTIONS)
    assert assign_cases(shuffled, fractions, 17) == assign_cases(index, fractions, 17)


def test_split_patches_when_the_seed_differs_then_assigns_otherwise(index):
    fractions = SubsetFractions(**FRACTIONS)
    assert assign_cases(index, fractions, 17) != assign_cases(index, fractions, 18)


def test_split_patches_when_a_gate_is_wanted_then_fills_it(index):
    fractions = {"val": 0.15, "gate": 0.15, "test": 0.2}
    assert "gate" in set(split(index, config(fractions=fractions))["split"])


def test_split_patches_when_a_subset_gets_no_case_then_names_it(make_index):
    with pytest.raises(InputError, match=r"subset \w+ has no IDC- and no IDC\+ patch"):
        split(make_index({"a": (5, 5), "b": (5, 5)}), config())


def test_split_patches_when_no_test_is_wanted_then_refuses(index):
    with pytest.raises(InputError, match="subset test has no"):
        split(index, config(fractions={"val": 0.2, "gate": 0.0, "test": 0.0}))


def test_split_patches_when_a_subset_lacks_a_class_then_names_subset_and_class(make_index, lists,
                                                                           tmp_path):  # fmt: skip
    index = make_index({"a": (5, 5), "b": (5, 5), "c": (5, 0)})
    chosen = config("lists", lists=lists(val=["b"], test=["c"]))
    with pytest.raises(InputError, match=r"subset test has no IDC\+ patch"):
        split(index, chosen, tmp_path)


def test_split_patches_when_lists_are_given_then_follows_them(index, lists, tmp_path):
    chosen = config("lists", lists=lists(val=["c01", "c02"], test=["c03"]))
    subsets = subsets_by_case(split(index, chosen, tmp_path))
    assert {case for case, subset in subsets.items() if subset == {"val"}} == {"c01", "c02"}
    assert {case for case, subset in subsets.items() if subset == {"test"}} == {"c03"}


def test_split_patches_when_the_rest_is_train_then_unlisted_cases_train(index, lists, tmp_path):
    chosen = config("lists", lists=lists(train=["c00"], val=["c01"], test=["c02"]))
    assert subsets_by_case(split(index, chosen, tmp_path))["c30"] == {"train"}


def test_split_patches_when_the_rest_is_dropped_then_only_listed_cases_stay(index, lists, tmp_path):
    named = lists(train=["c00"], val=["c01"], test=["c02"])
    splits = split(index, config("lists", lists=named, rest="drop"), tmp_path)
    assert set(splits["case"]) == {"c00", "c01", "c02"}


def test_split_patches_when_val_is_drawn_from_train_then_takes_its_share_of_the_train_cases(
    index, lists, tmp_path
):
    fractions = {"val": 0.25, "gate": 0.0, "test": 0.0}
    chosen = config("lists", lists=lists(test=["c03", "c04"]), fractions=fractions)
    subsets = {
        case: subset for case, (subset,) in subsets_by_case(split(index, chosen, tmp_path)).items()
    }
    sizes = index["case"].map(subsets).value_counts()
    assert sizes["val"] / (sizes["val"] + sizes["train"]) == pytest.approx(0.25, abs=0.04)


def test_split_patches_when_there_is_a_list_for_val_then_none_is_drawn_from_train(
    index, lists, tmp_path
):
    chosen = config("lists", lists=lists(val=["c01"], test=["c03", "c04"]))
    splits = split(index, chosen, tmp_path)
    assert set(splits.loc[splits["split"] == "val", "case"]) == {"c01"}


def test_split_patches_when_val_is_drawn_from_train_then_it_is_as_in_the_mode_case_of_the_rest(
    index, lists, tmp_path
):
    fractions = {"val": 0.12, "gate": 0.1, "test": 0.2}
    chosen = config("lists", lists=lists(test=["c03", "c04"]), fractions=fractions)
    found = split(index, chosen, tmp_path)
    rest = index[~index["case"].isin(["c03", "c04"])]
    expected = assign_cases(rest, SubsetFractions(val=0.12, gate=0.0, test=0.0), SEED)
    assert {
        case: subsets for case, subsets in subsets_by_case(found).items() if case in expected
    } == {case: {subset} for case, subset in expected.items()}


def test_split_patches_when_val_is_drawn_from_train_then_test_cases_stay_where_they_are(
    index, lists, tmp_path
):
    fractions = {"val": 0.25, "gate": 0.0, "test": 0.0}
    chosen = config("lists", lists=lists(test=["c03", "c04"]), fractions=fractions)
    splits = split(index, chosen, tmp_path)
    assert set(splits.loc[splits["split"] == "test", "case"]) == {"c03", "c04"}


def test_split_patches_when_a_list_is_missing_then_names_those_there(index, lists, tmp_path):
    named = {**lists(val=["c01"]), "test": "nowhere.txt"}
    with pytest.raises(InputError, match=r"split\.lists\.test: .*nowhere.*there are val\.txt"):
        split(index, config("lists", lists=named), tmp_path)


def test_split_patches_when_a_case_is_on_two_lists_then_names_it(index, lists, tmp_path):
    chosen = config("lists", lists=lists(val=["c01"], test=["c01", "c02"]))
    with pytest.raises(InputError, match="case c01 is also listed for val"):
        split(index, chosen, tmp_path)


def test_assign_patches_when_assigned_then_each_label_gets_its_shares(index):
    subsets = assign_patches(index, SubsetFractions(**FRACTIONS), 17)
    shares = pd.crosstab(index["label"], subsets, normalize="index")
    assert shares["val"].tolist() == pytest.approx([0.15, 0.15], abs=0.01)
    assert shares["test"].tolist() == pytest.approx([0.25, 0.25], abs=0.01)


def test_assign_patches_when_assigned_then_cases_are_in_several_subsets(index):
    splits = split(index, config("patch"))
    assert max(len(subsets) for subsets in subsets_by_case(splits).values()) == 3


def test_assign_patches_when_the_index_is_shuffled_then_assigns_the_same(index):
    fractions = SubsetFractions(**FRACTIONS)
    shuffled = index.sample(frac=1.0, random_state=3)
    pd.testing.assert_series_equal(
        assign_patches(shuffled, fractions, 17).sort_index(), assign_patches(index, fractions, 17),
        check_names=False,
    )  # fmt: skip


def test_assign_patches_when_assigned_then_test_patches_do_not_follow_the_manifests_order(index):
    subsets = assign_patches(index, SubsetFractions(**FRACTIONS), 17)
    in_test = (subsets == "test").to_numpy()
    drawn_first = pd.Series(rank_patches(index, 17)).rank(pct=True)[in_test]
    assert drawn_first.mean() == pytest.approx(0.5, abs=0.1)


FOUR_SUBSETS = SubsetFractions(val=0.15, gate=0.1, test=0.2)

case_counts = st.dictionaries(
    st.text("abcdefgh0123456789", min_size=1, max_size=6),
    st.tuples(st.integers(0, 40), st.integers(0, 40)).filter(any),
    min_size=1,
    max_size=40,
)


def pool_of(cases):
    cells = [(case, label, n) for case, counts in cases.items() for label, n in enumerate(counts)]
    names, labels, sizes = zip(*cells, strict=True)
    column = np.repeat(np.array(names, object), sizes)
    return pd.DataFrame({"case": column, "label": np.repeat(labels, sizes)})


@given(case_counts, st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_assign_cases_when_given_any_cases_then_each_gets_one_known_subset(cases, seed):
    subsets = assign_cases(pool_of(cases), FOUR_SUBSETS, seed)
    assert set(subsets) == set(cases)
    assert set(subsets.values()) <= {"train", "val", "gate", "test"}


@given(case_counts, case_counts, st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_assign_cases_when_cases_are_added_or_gone_then_known_ones_keep_their_subset(
    before, after, seed
):
    first = assign_cases(pool_of(before), FOUR_SUBSETS, seed)
    second = assign_cases(pool_of(before | after), FOUR_SUBSETS, seed, known=first)
    assert {case: second[case] for case in first} == first
    alone = assign_cases(pool_of(after), FOUR_SUBSETS, seed, known=second)
    assert alone == {case: second[case] for case in after}


@given(case_counts, st.integers(0, 2**32 - 1), st.randoms(use_true_random=False))
@settings(max_examples=20, deadline=None)
def test_assign_cases_when_patches_come_in_another_order_then_assigns_the_same(cases, seed, random):
    pool = pool_of(cases)
    order = list(range(len(pool)))
    random.shuffle(order)
    assert assign_cases(pool.iloc[order], FOUR_SUBSETS, seed) == assign_cases(
        pool, FOUR_SUBSETS, seed
    )


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=10, deadline=None)
def test_assign_cases_when_cases_are_many_then_prevalence_is_within_three_points(seed):
    rng = np.random.default_rng(seed)
    sizes = rng.lognormal(6.3, 0.8, 200).astype(int) + 20
    idc = (sizes * rng.beta(1.2, 2.7, 200)).astype(int)
    cases = {f"c{i}": (int(n - k), int(k)) for i, (n, k) in enumerate(zip(sizes, idc, strict=True))}
    subsets = pd.Series(assign_cases(pool_of(cases), FOUR_SUBSETS, seed))
    held = pd.DataFrame({"n": sizes, "idc": idc}, index=list(cases)).groupby(subsets).sum()
    assert (held["idc"] / held["n"] - idc.sum() / sizes.sum()).abs().max() < 0.03
    assert subsets.value_counts().min() >= 15


def test_assign_cases_when_two_thirds_are_new_then_new_ones_fill_what_is_short(index):
    known = dict.fromkeys(sorted(CASES)[:13], "test")
    subsets = assign_cases(index, FOUR_SUBSETS, 17, known=known)
    new = [subset for case, subset in subsets.items() if case not in known]
    assert "test" not in new
    assert {"train", "val", "gate"} == set(new)


@given(case_counts, st.integers(3, 7), st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_assign_folds_when_every_fold_is_tested_then_each_case_is_tested_once(cases, num, seed):
    pool = pool_of(cases)
    tested = [
        case
        for fold in range(num)
        for case, subset in assign_folds(
            pool, FoldsConfig(num_folds=num, test_fold=fold), seed
        ).items()
        if subset == "test"
    ]
    assert sorted(tested) == sorted(cases)


def test_assign_folds_when_one_is_tested_then_the_next_one_is_val(index):
    first = assign_folds(index, FoldsConfig(num_folds=5, test_fold=1), 17)
    second = assign_folds(index, FoldsConfig(num_folds=5, test_fold=2), 17)
    assert {c for c, s in first.items() if s == "val"} == {
        c for c, s in second.items() if s == "test"
    }


def patch_folds(index, num, seed=17):
    folds = [FoldsConfig(num_folds=num, test_fold=fold) for fold in range(num)]
    return pd.DataFrame({f.test_fold: assign_patch_folds(index, f, seed) for f in folds})


def test_assign_patch_folds_when_every_fold_is_tested_then_each_patch_is_tested_and_val_once(index):
    subsets = patch_folds(index, 5)
    assert ((subsets == "test").sum(axis=1) == 1).all()
    assert ((subsets == "val").sum(axis=1) == 1).all()
    assert ((subsets == "train").sum(axis=1) == 3).all()


def test_assign_patch_folds_when_assigned_then_folds_are_equal_in_size_and_label(index):
    tested = patch_folds(index, 5).eq("test").idxmax(axis=1)
    counts = pd.crosstab(tested, index["label"])
    assert (counts.max() - counts.min() <= 1).all()


def test_assign_patch_folds_when_assigned_then_the_manifests_order_says_nothing_of_the_fold(index):
    tested = patch_folds(index, 5).eq("test").idxmax(axis=1)
    drawn = pd.Series(rank_patches(index, 17), index=index.index).groupby(index["label"]).rank()
    first_half = drawn <= drawn.groupby(index["label"]).transform("median")
    assert pd.crosstab(tested, first_half, normalize="index")[True].between(0.4, 0.6).all()


def test_assign_patch_folds_when_the_index_is_shuffled_then_assigns_the_same(index):
    shuffled = index.sample(frac=1.0, random_state=3)
    pd.testing.assert_frame_equal(patch_folds(shuffled, 4).sort_index(), patch_folds(index, 4))


def test_split_patches_when_patches_are_folded_then_cases_are_in_all_subsets(index):
    splits = split(index, config("patch", folds={"num_folds": 5, "test_fold": 2}))
    assert set(splits["split"]) == {"train", "val", "test"}
    assert (splits.groupby("case")["split"].nunique() == 3).mean() > 0.9


FOLDS = {"num_folds": 4, "test_fold": 0}


def training(index, **changes):
    splits = split(index, config(folds=FOLDS, **changes))
    return splits[splits["split"] == "train"]


def held_out(index, **changes):
    splits = split(index, config(folds=FOLDS, **changes))
    return splits[splits["split"] != "train"].reset_index(drop=True)


@pytest.mark.parametrize("caps", [{"max_train_cases": 5}, {"max_train_patches": 60}])
def test_split_patches_when_train_is_capped_then_val_and_test_are_as_before(index, caps):
    pd.testing.assert_frame_equal(held_out(index, **caps), held_out(index))


def test_split_patches_when_patches_are_capped_then_train_has_so_many_half_per_class(index):
    counts = training(index, max_train_patches=60)["label"].value_counts()
    assert counts.to_dict() == {0: 30, 1: 30}


def test_split_patches_when_patches_are_capped_then_they_are_the_manifests_first(index):
    pool = index.rename_axis("row").reset_index()
    manifest = pool.sample(frac=0.5, random_state=1)
    chosen = config(folds=FOLDS, max_train_patches=20)
    found = split_patches(index, manifest, chosen, SEED, case_lists=None, case_subsets={})
    found = found[found["split"] == "train"]
    everything = split_patches(
        index, manifest, config(folds=FOLDS), SEED, case_lists=None, case_subsets={}
    )
    of_train = manifest[manifest["row"].isin(everything.query("split == 'train'")["row"])]
    first = of_train.groupby("label").head(10)
    assert sorted(found["row"]) == sorted(first["row"])
    assert found["row"].is_monotonic_increasing


@pytest.mark.parametrize(("cap", "sizes"), [("max_train_cases", (3, 7, 12)),
                                            ("max_train_patches", (20, 60, 100))])  # fmt: skip
def test_split_patches_when_the_cap_grows_then_smaller_training_sets_are_within_larger(
    index, cap, sizes
):
    nested = [set(training(index, **{cap: size})["row"]) for size in sizes]
    assert nested[0] < nested[1] < nested[2] < set(training(index)["row"])


def test_split_patches_when_cases_are_capped_then_train_has_so_many_with_all_their_patches(index):
    few = training(index, max_train_cases=6)
    everything = training(index)
    assert few["case"].nunique() == 6
    assert len(few) == everything["case"].isin(few["case"]).sum()


def test_split_patches_when_both_caps_hold_then_the_patches_are_those_of_the_cases(index):
    both = training(index, max_train_cases=6, max_train_patches=30)
    assert set(both["case"]) <= set(training(index, max_train_cases=6)["case"])
    assert len(both) == 30


def test_order_cases_when_others_leave_then_the_order_of_the_rest_stays():
    cases = order_cases(CASES, 17)
    assert sorted(cases) == sorted(CASES)
    assert cases != sorted(CASES)
    rest = [case for case in cases if case not in EXCLUDED]
    assert order_cases(sorted(rest, reverse=True), 17) == rest


def test_split_patches_when_labels_are_corrected_then_train_has_them_and_no_other_subset(index):
    manifest = index.rename_axis("row").reset_index().assign(label=lambda t: 1 - t["label"])
    manifest = manifest.astype({"label": "int8"})
    splits = split_patches(index, manifest, config(), SEED, case_lists=None, case_subsets={})
    archived = index.loc[splits["row"], "label"].to_numpy()
    on_train = (splits["split"] == "train").to_numpy()
    assert (splits["label"].to_numpy() != archived).tolist() == on_train.tolist()


def test_split_patches_when_folds_are_wanted_then_gate_is_empty_and_known_subsets_are_ignored(
    index,
):
    chosen = config(folds={"num_folds": 4, "test_fold": 0})
    splits = split(index, chosen, known=dict.fromkeys(CASES, "test"))
    assert set(splits["split"]) == {"train", "val", "test"}


def test_split_patches_when_subsets_are_known_then_follows_them(index):
    known = dict.fromkeys(list(CASES)[:3], "val")
    subsets = subsets_by_case(split(index, config(), known=known))
    assert all(subsets[case] == {"val"} for case in known)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"mode": "lists", "folds": {"num_folds": 5, "test_fold": 0}}, "mode case or patch, not"),
        ({"max_train_patches": 101}, "multiple of 2"),
        ({"max_train_cases": 0}, "greater than or equal to 1"),
        ({"folds": {"num_folds": 5, "test_fold": 5}}, "test_fold must be below num_folds = 5"),
    ],
)
def test_split_config_when_folds_make_no_sense_then_refuses(change, rule):
    with pytest.raises(ValueError, match=rule):
        config(**change)


EXCLUDED = ["c03", "c04", "c17"]


@pytest.fixture
def exclude(tmp_path):
    def write(*cases):
        (tmp_path / "out.txt").write_text("\n".join(cases) + "\n", encoding="utf-8")
        return {"exclude": "out.txt"}

    return write


@pytest.mark.parametrize(
    ("mode", "folds"),
    [("case", None), ("case", {"num_folds": 4, "test_fold": 1}), ("patch", None), ("lists", None)],
)
def test_split_patches_when_cases_are_excluded_then_they_are_on_no_subset_in_any_mode(
    index, lists, exclude, tmp_path, mode, folds
):
    # c03 would train, c04 would be val, c17 is unlisted
    named = lists(train=["c03", "c05"], val=["c04", "c06"], test=["c07"])
    chosen = config(mode, folds=folds, lists=named, **exclude(*EXCLUDED, "not_here"))
    splits = split(index, chosen, tmp_path)
    assert set(splits["case"]) == set(CASES) - set(EXCLUDED)
    assert (index.loc[splits["row"], "case"].to_numpy() == splits["case"]).all()


def test_split_patches_when_cases_are_excluded_then_the_others_are_assigned_as_without_them(
    index, exclude, tmp_path
):
    folds = {"num_folds": 4, "test_fold": 1}
    without = index[~index["case"].isin(EXCLUDED)]
    split_unit = assign_folds(without, FoldsConfig(**folds), 17)
    found = subsets_by_case(split(index, config(folds=folds, **exclude(*EXCLUDED)), tmp_path))
    assert {case: {subset} for case, subset in split_unit.items()} == found


def test_split_patches_when_a_known_case_is_excluded_then_it_takes_no_part(
    index, exclude, tmp_path
):
    splits = split(index, config(**exclude("c03")), tmp_path, known={"c03": "test", "c05": "val"})
    assert "c03" not in set(splits["case"])
    assert subsets_by_case(splits)["c05"] == {"val"}


def test_split_patches_when_the_excluding_list_is_missing_then_names_those_there(
    index, exclude, tmp_path
):
    exclude("c03")
    with pytest.raises(InputError, match=r"split\.exclude: .*nowhere.*there are out\.txt"):
        split(index, config(exclude="nowhere.txt"), tmp_path)


def test_split_patches_when_it_would_exclude_none_of_the_cases_then_refuses(
    index, exclude, tmp_path
):
    with pytest.raises(InputError, match="none of the archive's cases is on"):
        split(index, config(**exclude("d01", "d02")), tmp_path)


def test_split_patches_when_every_case_is_excluded_then_refuses(index, exclude, tmp_path):
    with pytest.raises(InputError, match="lists every case"):
        split(index, config(**exclude(*CASES)), tmp_path)
