"""The rule on simulated gates, and what it says."""

import numpy as np
import pytest

from benchmarks.promotion import Truth, draw_gate, simulate
from idc.core.errors import InputError
from idc.evaluation.statistics.bootstrap import Bootstrap
from idc.lifecycle.promotion.decision import decide
from idc.lifecycle.promotion.gate import GateScores
from tests.promotion.conftest import score_with_errors

NUM_DRAWS, NUM_CASES = 200, 20
BOOTSTRAP = Bootstrap(200, 17)


@pytest.fixture
def config(change_params):
    return change_params().promotion


@pytest.fixture
def gate():
    y_true, case, *_ = draw_gate(Truth(0.0, 0.0), NUM_CASES, np.random.default_rng(1))
    return y_true, case


@pytest.mark.slow  # some 10 s: hundreds of simulated decisions
def test_rule_when_models_are_equal_then_hardly_ever_promotes(config):
    held = simulate(Truth(0.0, 0.0), NUM_CASES, NUM_DRAWS, config, BOOTSTRAP.num_replicates, seed=5)
    assert held.all(axis=1).mean() <= 0.05


@pytest.mark.slow  # some 10 s: hundreds of simulated decisions
def test_rule_when_sensitivity_is_truly_worse_then_blocks_a_better_balanced_accuracy(config):
    held = simulate(
        Truth(-0.05, 0.14), NUM_CASES, NUM_DRAWS, config, BOOTSTRAP.num_replicates, seed=5
    )
    better, sensitivity, _ = held.T
    assert better.mean() > 0.25, "the margin must be what blocks"
    assert sensitivity.mean() <= 0.1


@pytest.mark.slow  # some 10 s: hundreds of simulated decisions
def test_rule_when_the_challenger_is_truly_better_then_mostly_promotes(config):
    held = simulate(
        Truth(0.08, 0.08), NUM_CASES, NUM_DRAWS, config, BOOTSTRAP.num_replicates, seed=5
    )
    assert held.all(axis=1).mean() > 0.8


def test_decide_when_scores_are_worse_calibrated_then_the_calibration_margin_breaks(config, gate):
    y_true, case = gate
    champion = score_with_errors(y_true, 0.2)
    better = score_with_errors(y_true, 0.02)
    overdone = GateScores(np.where(y_true == 1, 0.51, 0.49), better.y_pred)
    held = {
        r.rule: r.holds for r in decide(y_true, case, champion, overdone, config, BOOTSTRAP).reasons
    }
    assert held == {"superiority": True, "sensitivity margin": True, "calibration margin": False}


def test_decide_when_models_are_one_then_nothing_differs_and_nothing_is_promoted(config, gate):
    y_true, case = gate
    scored = score_with_errors(y_true, 0.1)
    decision = decide(y_true, case, scored, scored, config, BOOTSTRAP)
    assert not decision.promote
    assert decision.figures["differences"]["sensitivity"] == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_decide_when_there_are_two_cases_then_refuses(config):
    y_true, case = np.array([0, 1, 0, 1]), np.array(["a", "a", "b", "b"])
    scored = score_with_errors(y_true, 0.0)
    with pytest.raises(InputError, match="at least 3"):
        decide(y_true, case, scored, scored, config, BOOTSTRAP)
