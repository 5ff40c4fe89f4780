"""`idc params`: every parameter and its value, as the stages read them."""

import argparse
import json

from idc.cli.command import Command, print_json
from idc.core import layout


def _print_params(options: argparse.Namespace) -> int:
    from idc.core.config import dot_keys, load_params

    values = dot_keys(load_params(layout.PARAMS).model_dump(mode="json"))
    if options.json:
        print_json({"count": len(values)} if options.count else values)
    elif options.count:
        print(len(values))
    else:
        width = max(map(len, values))
        for key, value in values.items():
            print(f"{key:{width}}  {json.dumps(value)}")
    return 0


PARAMS = Command(
    "params",
    "list every parameter and its value",
    _print_params,
    reads="params.yaml",
    writes="nothing",
    add_arguments=lambda parser: parser.add_argument(
        "--count", action="store_true", help="print how many there are"
    ),
    json=True,
)
