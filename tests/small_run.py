"""The smallest run of the whole pipeline that still does all of it: what slow tests start from."""

from typing import Any

SMALL: dict[str, Any] = {
    "sample.num_patches": 120,
    "sample.allow_fewer": True,
    "split.fractions": {"val": 0.3, "gate": 0.0, "test": 0.3},
    "model.backbones": ["test_resnet"],
    "model.texture_member": False,  # seconds, whatever the number of patches
    "model.pretrained": "none",
    "model.size_px": 32,
    "train.epochs": 1,
    "train.batch_size": 8,
    "train.precision": "fp32",
    "baselines.names": [],
    "evaluate.num_replicates": 100,
    "explain.methods": ["saliency"],
    "explain.num_reference": 2,
    "explain.num_per_group": 1,
    "explain.num_slides": 0,
    "explain.num_mosaics": 0,
    "runtime.device": "cpu",
    "runtime.num_threads": 1,
}
"""New values by dotted key of `params.yaml`; a test adds what it needs otherwise."""
