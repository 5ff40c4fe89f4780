"""What a person sees of a whole result: three backbones, every baseline, all scores of maps."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from mlflow.tracking import MlflowClient

from idc.evaluation.statistics.metrics import METRICS, PRIMARY
from idc.models.baselines.fit import BASELINES
from idc.tracking.chosen_metrics import CHOSEN, MAX_METRICS, choose_metrics
from idc.tracking.connection import ensure_experiment, tracking_uri
from idc.tracking.live import live_run
from idc.tracking.publishing import publish_result

BACKBONES = ("efficientnet_b0", "resnet50", "densenet121")
OTHERS = (*BACKBONES, "cnn", "texture", "colour", *BASELINES)
METHODS = ("saliency", "grad_cam", "layer_cam")
ENDS = {"": 0.8, "_low": 0.7, "_high": 0.9}
EPOCH = {
    "train/loss": 0.7,
    "val/epoch_auroc": 0.6,
    "train/learning_rate": 1e-3,
    "train/patches_per_s": 100.0,
    "train/elapsed_s": 5.0,
}
CARD = "# Model card\n" + "A line of it.\n" * 500
FIGURE = {"value": 0.8, "low": 0.7, "high": 0.9, "num_patches": 4}


def all_figures():
    """What `metrics.json` and the other stages hold of a run with three backbones."""
    names = dict.fromkeys(("test", "val", "test_manifest", "test_context"), METRICS)
    names |= {f"test_{other}": PRIMARY for other in OTHERS}
    names |= {f"fusion_minus_{other}": PRIMARY for other in OTHERS}
    names |= {"test_burden": ("mae_score", "mae_called", "mae_score_difference")}
    figures = {
        f"{subset}/{name}{end}": value
        for subset, known in names.items()
        for name in known
        for end, value in ENDS.items()
    }
    plain = {
        "test": ("num_cases", "num_patches", "prevalence", "effective_cases"),
        "leakage": (
            "num_shared_cases", "num_exact_duplicates", "num_near_duplicates",
            "share_val_touching_train", "share_gate_touching_train", "share_test_touching_train",
        ),
        "class_weights": ("0", "1"),
        "explain/s_per_patch": METHODS,
    }  # fmt: skip
    return figures | {f"{subset}/{name}": 1.0 for subset, known in plain.items() for name in known}


def all_scores():
    by_method = {name: {"fused": FIGURE} for name in METHODS}
    faithful = dict.fromkeys(("deletion_auc", "insertion_auc", "road"), FIGURE)
    return {
        "faithfulness": {"fused": dict.fromkeys(METHODS, faithful)},
        "traits": {
            "methods": {name: {"sources": {"fused": {"enrichment": FIGURE}}} for name in METHODS},
            "baselines": {"random": {"enrichment": FIGURE}},
            "best_enrichment": {"cam": FIGURE},
            "background_area": FIGURE,
        },
        "mosaics": {
            "trained": by_method,
            "ranking": ["layer_cam", "grad_cam", "saliency"],
            "ranked_by": ["fused"],
        },
        "sanity": {"similarity": {}, "failed": {}},
    }


def whole(result):
    difference = {"value": 0.05, "low": 0.01, "high": 0.09}
    return replace(
        result,
        figures=all_figures(),
        evaluation={
            "ablation": {
                "text": "The fusion beats its best single member.",
                "members": [{"name": name, "title": name} for name in OTHERS[:5]],
                "differences": {name: {"auroc": difference} for name in OTHERS},
            },
            "subgroups": [{"family": "stain", "label": "pale", "metric": "auroc", **FIGURE}],
        },
        scores=all_scores(),
        model_card=CARD,
    )


@pytest.fixture(scope="module")
def shown(tmp_path_factory, result):
    """A whole result, trained live and published twice in an experiment of MLflow's own making."""
    root = tmp_path_factory.mktemp("root")
    outcome = whole(result)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "")
        (root / "mlruns").mkdir()
        client = MlflowClient(tracking_uri(root), tracking_uri(root))
        client.create_experiment("idc")
        with live_run(root, outcome.params, "abc", training="t1", resumed=False) as live:
            live.log_class_weights([1.0, 1.0])
            live.log_epoch(1, EPOCH)
            live.name_model(outcome.model_digest, {"torch": "2"})
        published = publish_result(outcome, root)
        run = client.get_run(published.run_id)
        assert publish_result(outcome, root) == published
        again = client.get_run(published.run_id)
    return SimpleNamespace(
        client=client, root=root, run=run, again=again, published=published,
        version=client.get_model_version(published.model_name, published.model_version),
    )  # fmt: skip


def load_table(shown, name):
    path = shown.client.download_artifacts(shown.published.run_id, f"tables/{name}.json")
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    return content["columns"], content["data"]


def test_run_when_the_result_is_whole_then_at_most_80_metrics(shown):
    assert MAX_METRICS == 80
    assert 60 <= len(shown.run.data.metrics) <= MAX_METRICS


def test_run_when_the_result_is_whole_then_what_a_person_compares_is_among_them(shown):
    expected = {
        *EPOCH,
        *(f"test/{name}{end}" for name in PRIMARY for end in ENDS),
        *(f"fusion_minus_{name}/auroc{end}" for name in OTHERS for end in ENDS),
        *(f"fusion_minus_{name}/balanced_accuracy" for name in OTHERS),
        "explain/best_mosaic_share", "explain/best_s_per_patch", "class_weights/0", "val/auroc",
        "leakage/num_shared_cases", "test_context/auroc_low", "test_burden/mae_score",
    }  # fmt: skip
    assert expected <= set(shown.run.data.metrics)


def test_choice_when_the_result_is_whole_then_every_line_of_the_table_chooses_something():
    figures = all_figures()
    for choice in CHOSEN:
        subsets = {key.rpartition("/")[0] for key in choose_metrics(figures)}
        assert any(subset.startswith(choice.subset.rstrip("*")) for subset in subsets), choice
        assert choice.why


def test_tables_when_the_result_is_whole_then_every_figure_is_in_one(shown):
    columns, rows = load_table(shown, "metrics")
    assert columns == ["subset", "metric", "value", "low", "high"]
    assert ["test_manifest", "mcc", 0.8, 0.7, 0.9] in rows
    assert ["test", "num_cases", 1.0, None, None] in rows
    named = {f"{subset}/{name}" for subset, name, *_ in rows}
    with_ends = {key for key in all_figures() if f"{key}_low" in all_figures()}
    ends = {f"{key}{end}" for key in with_ends for end in ("_low", "_high")}
    assert named == set(all_figures()) - ends
    assert len(load_table(shown, "subgroups")[1]) == 1
    columns, rows = load_table(shown, "attribution_scores")
    assert columns == ["method", "source", "score", "value", "low", "high"]
    assert ["saliency", "fused", "road", 0.8, 0.7, 0.9] in rows


def test_run_when_published_then_it_says_in_words_what_it_is(shown):
    text = shown.run.data.tags["mlflow.note.content"]
    assert "AUROC **0.800 [0.700, 0.900]**" in text
    assert "balanced accuracy **0.800 [0.700, 0.900]**" in text
    assert "| plain cnn | 0.800 [0.700, 0.900] | +0.050 [+0.010, +0.090] |" in text
    assert "from scratch on 4 IDC- and 4 IDC+ patches at 32 px, split by case" in text
    place = f"#/experiments/{shown.run.info.experiment_id}/runs/{shown.published.run_id}/artifacts"
    assert f"]({place}/tables/metrics.json)" in text


def test_run_when_published_then_its_tags_can_be_read(shown):
    tags = shown.run.data.tags
    assert {key: tags[key] for key in ("model", "backbones", "size_px", "pretrained", "split")} == {
        "model": "fusion CNN", "backbones": "test_resnet", "size_px": "32", "pretrained": "none",
        "split": "by case",
    }  # fmt: skip
    assert tags["data_digest"] == "manifest"
    assert tags["best_attribution_method"] == "layer_cam"
    assert tags["mlflow.source.name"] == "dvc repro"
    assert (tags["mlflow.source.type"], tags["mlflow.source.git.commit"]) == ("LOCAL", "abc")
    assert tags["mlflow.user"]


def test_run_when_published_again_then_nothing_changes(shown):
    assert shown.again.to_dictionary() == shown.run.to_dictionary()


def test_run_when_a_person_wrote_about_it_then_their_words_stay(shown, result):
    run_id = shown.published.run_id
    shown.client.set_tag(run_id, "mlflow.note.content", "my own")
    publish_result(whole(result), shown.root)
    assert shown.client.get_run(run_id).data.tags["mlflow.note.content"] == "my own"


def test_experiment_when_it_was_made_elsewhere_then_mlflow_opens_it_as_one_of_training(shown):
    experiment = shown.client.get_experiment(shown.run.info.experiment_id)
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"


def test_experiment_when_made_here_then_mlflow_opens_it_as_one_of_training(shown):
    experiment_id = ensure_experiment(shown.client, "another", shown.root)
    tags = shown.client.get_experiment(experiment_id).tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"


def test_version_when_registered_then_the_model_card_and_its_figures_stand_there(shown):
    version = shown.version
    assert version.description.startswith("# Model card")
    assert len(version.description) <= 5000  # what PostgreSQL holds
    assert version.description.endswith("(The rest is in the run's model_card.md.)")
    assert version.tags["test_auroc"] == "0.800 [0.700, 0.900]"
    assert version.tags["data_digest"] == "manifest"
    assert (version.tags["git_commit"], version.tags["result_digest"]) == ("abc", "r1")
    model = shown.client.get_registered_model(shown.published.model_name)
    assert "invasive ductal carcinoma" in model.description


def test_version_when_registered_then_its_model_bears_the_metrics(shown):
    (logged,) = shown.client.search_logged_models([shown.run.info.experiment_id])
    assert shown.version.source == logged.artifact_location
    assert json.loads(logged.tags["mlflow.modelVersions"]) == [
        {"name": shown.published.model_name, "version": shown.version.version}
    ]
    values = {metric.key: metric.value for metric in logged.metrics}
    assert values["test/auroc"] == 0.8


def test_process_when_something_was_published_then_its_own_store_is_what_it_was(shown):
    import mlflow

    assert str(shown.root) not in mlflow.get_tracking_uri()
