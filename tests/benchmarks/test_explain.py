import re

import pytest

from benchmarks.explain import compare, parse, rank_by_mean_place
from idc.evaluation.statistics.bootstrap import Estimate


def test_rank_by_mean_place_when_measures_disagree_then_places_are_averaged():
    values = {"good": (0.9, 0.6), "middling": (0.5, 0.7), "bad": (0.1, 0.1)}
    scores = {
        name: {f"{i}": Estimate(value, value, value) for i, value in enumerate(each)}
        for name, each in values.items()
    }
    assert rank_by_mean_place(scores)[2] == "bad"
    scores["good"]["1"] = Estimate(0.8, 0.8, 0.8)
    assert rank_by_mean_place(scores) == ["good", "middling", "bad"]


@pytest.mark.slow
def test_compare_when_tiny_then_every_method_stands_in_every_table(
    tmp_path, project_root, monkeypatch
):
    monkeypatch.chdir(project_root)
    sizes = {"views": 8, "few-views": 8, "cases": 16, "patches-per-case": 40, "size-px": 32}
    small = [part for name, size in sizes.items() for part in (f"--{name}", str(size))]
    network = ["--backbones", "test_resnet", "--epochs", "1", "--threads", "1"]
    options = parse([*small, *network, "--methods", "saliency", "grad_cam"])
    tables = [text for text in compare(options, tmp_path) if text.startswith("| method")]
    assert len(tables) == 6
    for table in tables:
        assert "| Saliency |" in table
        assert "| Grad-CAM |" in table
    ranking, shortcuts = tables[0], tables[-1]
    for table in (ranking, shortcuts):
        assert all(name in table for name in ("random map", "blob in the centre", "darkness"))
    assert re.search(r"\| Saliency \|( \.\d\d \[\.\d\d, \d?\.\d\d\] \|){3}", ranking)
