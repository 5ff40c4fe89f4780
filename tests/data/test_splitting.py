import pandas as pd
import pytest

from idc.config import SideFractions, SplitConfig
from idc.data.sampling import rank_patches
from idc.data.splitting import deal_cases, deal_patches, split_patches
from idc.errors import InputError

CASES = {f"c{number:02d}": (10 + number, 5 + number % 7) for number in range(40)}
FRACTIONS = {"val": 0.15, "gate": 0.0, "test": 0.25}
NO_LISTS = {"train": None, "val": None, "gate": None, "test": None}


def config(mode="case", **changes):
    values = {
        "fractions": FRACTIONS,
        "lists": NO_LISTS,
        "carve_val": 0.0,
        "rest": "train",
        "seed": 17,
        **changes,
    }
    return SplitConfig(mode=mode, **values)


def split(index, settings, folder=None):
    pool = index.rename_axis("row").reset_index()
    manifest = pool[pool["row"] % 2 == 0]
    return split_patches(index, manifest, settings, folder)


def sides_by_case(splits):
    return splits.groupby("case")["split"].agg(set).to_dict()


@pytest.fixture
def index(make_index):
    return make_index(CASES)


@pytest.fixture
def lists(tmp_path):
    def write(**cases):
        for side, names in cases.items():
            (tmp_path / f"{side}.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
        return {side: f"{side}.txt" if side in cases else None for side in NO_LISTS}

    return write


def test_split_patches_when_cases_are_dealt_then_no_case_is_on_two_sides(index):
    assert all(len(sides) == 1 for sides in sides_by_case(split(index, config())).values())


def test_split_patches_when_cases_are_dealt_then_every_side_nears_its_share(index):
    sides = pd.Series(deal_cases(index, SideFractions(**FRACTIONS), 17))
    shares = index["case"].map(sides).value_counts(normalize=True)
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


def test_split_patches_when_the_index_is_shuffled_then_deals_the_same(index):
    shuffled = index.sample(frac=1.0, random_state=3).reset_index(drop=True)
    fractions = SideFractions(**FRACTIONS)
    assert deal_cases(shuffled, fractions, 17) == deal_cases(index, fractions, 17)


def test_split_patches_when_the_seed_differs_then_deals_otherwise(index):
    fractions = SideFractions(**FRACTIONS)
    assert deal_cases(index, fractions, 17) != deal_cases(index, fractions, 18)


def test_split_patches_when_a_gate_is_wanted_then_fills_it(index):
    fractions = {"val": 0.15, "gate": 0.15, "test": 0.2}
    assert "gate" in set(split(index, config(fractions=fractions))["split"])


def test_split_patches_when_a_side_gets_no_case_then_names_it(make_index):
    with pytest.raises(InputError, match=r"side \w+ has no IDC- and no IDC\+ patch"):
        split(make_index({"a": (5, 5), "b": (5, 5)}), config())


def test_split_patches_when_no_test_is_wanted_then_refuses(index):
    with pytest.raises(InputError, match="side test has no"):
        split(index, config(fractions={"val": 0.2, "gate": 0.0, "test": 0.0}))


def test_split_patches_when_a_side_lacks_a_class_then_names_side_and_class(make_index, lists,
                                                                           tmp_path):  # fmt: skip
    index = make_index({"a": (5, 5), "b": (5, 5), "c": (5, 0)})
    settings = config("lists", lists=lists(val=["b"], test=["c"]))
    with pytest.raises(InputError, match=r"side test has no IDC\+ patch"):
        split(index, settings, tmp_path)


def test_split_patches_when_lists_are_given_then_follows_them(index, lists, tmp_path):
    settings = config("lists", lists=lists(val=["c01", "c02"], test=["c03"]))
    sides = sides_by_case(split(index, settings, tmp_path))
    assert {case for case, side in sides.items() if side == {"val"}} == {"c01", "c02"}
    assert {case for case, side in sides.items() if side == {"test"}} == {"c03"}


def test_split_patches_when_the_rest_is_train_then_unlisted_cases_train(index, lists, tmp_path):
    settings = config("lists", lists=lists(train=["c00"], val=["c01"], test=["c02"]))
    assert sides_by_case(split(index, settings, tmp_path))["c30"] == {"train"}


def test_split_patches_when_the_rest_is_dropped_then_only_listed_cases_stay(index, lists, tmp_path):
    named = lists(train=["c00"], val=["c01"], test=["c02"])
    splits = split(index, config("lists", lists=named, rest="drop"), tmp_path)
    assert set(splits["case"]) == {"c00", "c01", "c02"}


def test_split_patches_when_val_is_carved_then_takes_its_share_of_the_train_cases(
    index, lists, tmp_path
):
    settings = config("lists", lists=lists(test=["c03", "c04"]), carve_val=0.25)
    sides = {
        case: side for case, (side,) in sides_by_case(split(index, settings, tmp_path)).items()
    }
    sizes = index["case"].map(sides).value_counts()
    assert sizes["val"] / (sizes["val"] + sizes["train"]) == pytest.approx(0.25, abs=0.04)


def test_split_patches_when_val_is_carved_then_test_cases_stay_where_they_are(
    index, lists, tmp_path
):
    settings = config("lists", lists=lists(test=["c03", "c04"]), carve_val=0.25)
    splits = split(index, settings, tmp_path)
    assert set(splits.loc[splits["split"] == "test", "case"]) == {"c03", "c04"}


def test_split_patches_when_a_list_is_missing_then_names_those_there(index, lists, tmp_path):
    named = {**lists(val=["c01"]), "test": "nowhere.txt"}
    with pytest.raises(InputError, match=r"split\.lists\.test: .*nowhere.*there are val\.txt"):
        split(index, config("lists", lists=named), tmp_path)


def test_split_patches_when_a_case_is_on_two_lists_then_names_it(index, lists, tmp_path):
    settings = config("lists", lists=lists(val=["c01"], test=["c01", "c02"]))
    with pytest.raises(InputError, match="case c01 is also listed for val"):
        split(index, settings, tmp_path)


def test_deal_patches_when_dealt_then_each_label_gets_its_shares(index):
    sides = deal_patches(index, SideFractions(**FRACTIONS), 17)
    shares = pd.crosstab(index["label"], sides, normalize="index")
    assert shares["val"].tolist() == pytest.approx([0.15, 0.15], abs=0.01)
    assert shares["test"].tolist() == pytest.approx([0.25, 0.25], abs=0.01)


def test_deal_patches_when_dealt_then_cases_are_on_several_sides(index):
    splits = split(index, config("patch"))
    assert max(len(sides) for sides in sides_by_case(splits).values()) == 3


def test_deal_patches_when_the_index_is_shuffled_then_deals_the_same(index):
    fractions = SideFractions(**FRACTIONS)
    shuffled = index.sample(frac=1.0, random_state=3)
    pd.testing.assert_series_equal(
        deal_patches(shuffled, fractions, 17).sort_index(), deal_patches(index, fractions, 17),
        check_names=False,
    )  # fmt: skip


def test_deal_patches_when_dealt_then_test_patches_do_not_follow_the_manifests_order(index):
    sides = deal_patches(index, SideFractions(**FRACTIONS), 18)
    in_test = (sides == "test").to_numpy()
    drawn_first = pd.Series(rank_patches(index, 17)).rank(pct=True)[in_test]
    assert drawn_first.mean() == pytest.approx(0.5, abs=0.1)
