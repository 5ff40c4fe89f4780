"""`idc weights`: the pretrained weights that the configured model starts from."""

import argparse
from typing import TYPE_CHECKING

from idc.cli.command import Command, print_json
from idc.core import layout

if TYPE_CHECKING:
    from idc.models.backbones.sources import Weights


def _weights(options: argparse.Namespace) -> int:
    from idc.core.config import load_params
    from idc.models.backbones.sources import NONE, fetch_weights, find_weights

    model = load_params(layout.PARAMS).model
    if model.pretrained == NONE:
        found = []
    else:
        found = [find_weights(name, model.pretrained) for name in model.backbones]
    if options.fetch:
        found = [fetch_weights(weights) for weights in found]
    if options.json:
        print_json({"pretrained": model.pretrained, "weights": [_describe(each) for each in found]})
        return 0
    if not found:
        print("model.pretrained is none: every backbone begins at random")
    for weights in found:
        _print(weights)
    return 0


def _describe(weights: "Weights") -> dict[str, str | None]:
    return {
        "backbone": weights.backbone,
        "place": weights.place,
        "path": None if weights.path is None else str(weights.path),
        "licence": weights.licence,
        "sha256": weights.sha256,
    }


def _print(weights: "Weights") -> None:
    facts = {
        "from": weights.place,
        "licence": weights.licence or "not said by the source",
        "sha256": weights.sha256 or "not here yet: idc weights --fetch",
    }
    print(weights.backbone)
    for name, value in facts.items():
        print(f"  {name:8} {value}")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--fetch", action="store_true", help="bring what only the hub has into its cache here"
    )


COMMAND = Command(
    "weights",
    "list the pretrained weights that are needed: where, licence, digest",
    _weights,
    reads="params.yaml, installed packages, a folder of weights, the hub's cache",
    writes="nothing; with --fetch the hub's cache",
    add_arguments=_add_arguments,
    json=True,
)
