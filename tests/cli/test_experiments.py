"""What the options of an experiment ask for, and how its command ends; no fold runs here."""

import pytest

from idc.cli import EXIT_FAILED, EXIT_INPUT, main
from idc.experiments import cross_validation, folds, learning_curve, optimism, screen
from idc.experiments.cross_validation import Setting
from idc.ops import demo
from idc.ops.stage_runner import StageRunner
from idc.stages import sample


@pytest.fixture
def asked(project, monkeypatch):
    """What the experiments were asked for, in place of doing it: name and arguments."""
    calls = []

    def replace(module, name, answer):
        def call(root, *arguments):
            assert root == project
            assert isinstance(arguments[-1], StageRunner)
            calls.append((name, *arguments[:-1]))
            return answer

        monkeypatch.setattr(module, name, call)

    page = project / "page.md"
    page.write_text("| a table |")
    replace(cross_validation, "cross_validate", None)
    replace(optimism, "measure_optimism", page)
    replace(learning_curve, "measure_learning_curve", page)
    return calls


def test_cross_validate_when_only_a_name_is_given_then_five_folds_by_case(asked, capsys):
    assert main(["cross-validate", "mine"]) == 0
    assert asked == [("cross_validate", Setting("mine", {}, 5, None, "case"))]
    assert capsys.readouterr().out == "reports/experiments/mine/metrics.json\n"


def test_cross_validate_when_options_are_given_then_the_setting_holds_them(asked, project):
    (project / "mine.yaml").write_text("train: {epochs: 2, batch_size: 8}\n")
    options = ("--config", "mine.yaml", "--set", "train.epochs=3", "--folds", "4")
    assert main(["cross-validate", "a", *options, "--only", "0", "2", "--split-by", "patch"]) == 0
    overrides = {"train.epochs": 3, "train.batch_size": 8}
    assert asked == [("cross_validate", Setting("a", overrides, 4, (0, 2), "patch"))]


def test_optimism_when_measured_then_prints_its_page(asked, capsys):
    assert main(["optimism", "mine", "--folds", "3"]) == 0
    assert asked == [("measure_optimism", Setting("mine", {}, 3))]
    assert capsys.readouterr().out == "| a table |\n"


def test_learning_curve_when_sizes_are_given_then_patches_and_cases_are_kept_apart(asked, capsys):
    options = ("--patches", "100", "200", "--cases", "5", "9", "--only", "1")
    assert main(["learning-curve", "mine", *options]) == 0
    sizes = learning_curve.Sizes((100, 200), (5, 9))
    assert asked == [("measure_learning_curve", Setting("mine", {}, 5, (1,)), sizes)]
    assert capsys.readouterr().out == "| a table |\n"


def test_learning_curve_when_no_size_is_given_then_says_what_is_missing(asked, capsys):
    assert main(["learning-curve", "mine"]) == EXIT_INPUT
    assert "--patches" in capsys.readouterr().err
    assert asked == []


@pytest.mark.parametrize("failed", [{}, {"size_50": "out of memory"}])
def test_screen_when_a_variant_failed_then_the_others_are_shown_and_the_command_fails(
    project, monkeypatch, capsys, failed
):
    def run_screen(root, plan, runner):
        assert plan == "the plan"
        page = root / folds.RESULTS / "screen.md"
        page.parent.mkdir(parents=True)
        page.write_text("| others |")
        return failed

    monkeypatch.setattr(folds, "load_plan", lambda path, root: "the plan")
    monkeypatch.setattr(screen, "run_screen", run_screen)
    assert main(["screen"]) == (EXIT_FAILED if failed else 0)
    printed = capsys.readouterr()
    assert printed.out == "| others |\n"
    assert printed.err == ("size_50 failed: out of memory\n" if failed else "")


@pytest.mark.parametrize(("low", "code"), [(0.01, 0), (0.0, EXIT_FAILED), (-0.02, EXIT_FAILED)])
def test_demo_when_the_network_is_not_shown_to_beat_colour_then_it_fails(
    project, monkeypatch, capsys, low, code
):
    made = demo.Demo(
        project / "report.html", "sqlite:///a.db", (0.9, 0.8, 0.95), 0.7, (0.1, low, 0.2)
    )
    monkeypatch.setattr(demo, "run_demo", lambda root: made)
    assert main(["demo"]) == code
    printed = capsys.readouterr()
    assert f"report:  {project}/report.html" in printed.out
    assert "test AUROC 0.900 [0.800, 0.950], colour baseline 0.700" in printed.out
    shown = f"difference in AUROC +0.100 [{low:+.3f}, +0.200]: "
    told = printed.err if code else printed.out
    assert told.splitlines()[-1].startswith(shown)


def test_stage_when_called_then_it_runs_with_the_parameters_of_the_project(project, monkeypatch):
    ran = []
    monkeypatch.setattr(sample, "run", ran.append)
    path = project / "params.yaml"
    path.write_text(path.read_text().replace("epochs: 2\n", "epochs: 7\n"))
    assert main(["sample"]) == 0
    (params,) = ran
    assert params.train.epochs == 7
