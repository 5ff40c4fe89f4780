from idc.experiments.folds import Plan
from idc.experiments.screen import describe_variant, format_screen
from tests.experiments.finished_folds import PLAN, REPEATED, write_results


def test_describe_variant_when_it_is_clearly_better_then_it_earns_its_place(project):
    plan = Plan.model_validate(PLAN | {"variants": {"better": {}, "worse": {}, "same": {}}})
    write_results(project, "tiny/base", 1.0)
    for name, strength in (("better", 3.0), ("worse", 0.1), ("same", 1.0)):
        write_results(project, f"tiny/{name}", strength)
    found = {name: describe_variant(project, plan, name) for name in plan.all_overrides()}
    assert "differences" not in found["base"]
    assert found["better"]["is_improvement"]
    assert found["better"]["differences"]["auroc"]["low"] > 0
    assert not found["worse"]["is_improvement"]
    assert not found["same"]["is_improvement"]
    assert found["same"]["differences"]["auroc"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    content = {"base": {"name": "tiny", "repeats": {}}, "folds": PLAN["folds"],
               "failed": {"odd": "diverged"},
               "variants": [{"name": name, **each} for name, each in found.items()]}  # fmt: skip
    rows = {line.split(" | ")[0]: line for line in format_screen(content).splitlines()}
    assert "| **yes** | unknown |" in rows["| better"]
    assert "| no, it is worse |" in rows["| worse"]
    assert "| +0.000 [+0.000, +0.000] | no |" in rows["| same"]
    assert "| odd | failed: diverged |" in format_screen(content)


def test_describe_variant_when_a_repeat_of_the_base_is_as_good_then_it_does_not_earn_its_place(
    project,
):
    plan = Plan.model_validate(PLAN | {"base": REPEATED, "variants": {"lucky": {}, "better": {}}})
    strengths = {"base": 0.5, "again": 1.5, "lucky": 1.5, "better": 4.0}
    for name, strength in strengths.items():
        write_results(project, f"tiny/{name}", strength)
    assert list(plan.all_overrides()) == list(strengths)
    found = {name: describe_variant(project, plan, name) for name in plan.all_overrides()}
    assert found["again"]["overrides"] == {"seeds.training": 18}
    assert "is_improvement" not in found["again"]
    assert found["lucky"]["differences"]["auroc"]["low"] > 0
    assert not found["lucky"]["is_improvement"]
    assert found["better"]["is_improvement"]
    content = {"base": REPEATED, "folds": PLAN["folds"], "failed": {"odd": "diverged"},
               "variants": [{"name": name, **each} for name, each in found.items()]}  # fmt: skip
    table = [line for line in format_screen(content).splitlines() if line.startswith("|")]
    assert "| AUROC against base | AUROC against again |" in table[0]
    assert len({line.count("|") for line in table}) == 1
    assert "| no |" in next(line for line in table if line.startswith("| lucky"))


def test_describe_variant_when_it_scores_the_models_of_the_base_then_no_repeat_is_its_match(
    project,
):
    plan = Plan.model_validate(PLAN | {"base": REPEATED, "variants": {"rescored": {}, "lucky": {}}})
    write_results(project, "tiny/base", 0.5)
    write_results(project, "tiny/again", 1.5)
    write_results(project, "tiny/rescored", 1.5, models_of="tiny/base")
    write_results(project, "tiny/lucky", 1.5)
    found = {name: describe_variant(project, plan, name) for name in plan.all_overrides()}
    assert not found["rescored"]["trained"]
    assert found["rescored"]["against_repeats"] == {}
    assert found["rescored"]["is_improvement"]
    assert found["lucky"]["trained"]
    assert list(found["lucky"]["against_repeats"]) == ["again"]
    content = {"base": REPEATED, "folds": PLAN["folds"], "failed": {},
               "variants": [{"name": name, **each} for name, each in found.items()]}  # fmt: skip
    row = next(line for line in format_screen(content).splitlines() if "| rescored" in line)
    assert "|  | **yes** |" in row


def test_format_screen_when_folds_are_left_out_then_says_which_were_run():
    content = {"base": {"name": "t", "repeats": {}}, "folds": {"num_folds": 5, "only": [0, 2]},
               "variants": [], "failed": {}}  # fmt: skip
    assert "5 folds, only 0, 2;" in format_screen(content)
