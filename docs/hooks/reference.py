"""The reference pages, written from the code each time the site is built, so none can be stale.

`mkdocs.yml` names this file as a hook. Parameters come from `idc.core.config` and `params.yaml`,
commands from the parser of `idc`, metric keys from `idc.evaluation`, tables from `idc.data.tables`,
stages from `dvc.yaml` and the modules of `idc.stages`.
"""

import argparse
import ast
import importlib
import inspect
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandera.pandas as pa
import yaml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from idc import cli
from idc.cli.command import EXIT_CODES, Command, create_parser
from idc.core.config import Params
from idc.data import tables
from idc.evaluation.statistics import metrics
from idc.stages import STAGES

ROOT = Path(__file__).parents[2]

_UNITS = {"_px": "pixels", "_s": "seconds"}
_TYPES = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "boolean": "true or false",
}
_BOUNDS = {
    "minimum": "≥ {:.15g}",
    "exclusiveMinimum": "> {:.15g}",
    "maximum": "≤ {:.15g}",
    "exclusiveMaximum": "< {:.15g}",
    "multipleOf": "multiple of {}",
    "minItems": "at least {} of them",
    "minLength": "not empty",
}

_SUBSETS = {
    "val": "validation cases, which choose threshold and calibration",
    "test": "all pool patches of the test cases: natural prevalence, the figures to report",
    "test_context": "test, each patch averaged with its touching patches (`evaluate.context`)",
    "test_manifest": "test, only patches of the balanced manifest: not comparable",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to those of `docs/`."""
    for name, write in (
        ("parameters", write_parameters),
        ("commands", write_commands),
        ("metrics", write_metrics),
        ("tables", write_tables),
        ("stages", write_stages),
    ):
        files.append(File.generated(config, f"reference/{name}.md", content=write()))
    return files


def write_parameters() -> str:
    """Return the page of `params.yaml`: every key with type, unit, range, default and meaning."""
    defaults = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    schema = Params.model_json_schema()
    lines = [
        "# Parameters",
        "",
        "Every value that changes a result stands in `params.yaml`, and nowhere else. `idc params` "
        "prints them; a wrong key or value is rejected in one line before anything runs. Change "
        "one there and run `make repro`: only the stages that read its section run again.",
    ]
    for section, reference in schema["properties"].items():
        content = _resolve(reference, schema)
        lines += ["", f"## `{section}`", "", _sentence(content["description"]), ""]
        lines += ["| key | type and range | default | meaning |", "|---|---|---|---|"]
        for key, field in _leaves(content, schema):
            default = _at(defaults[section], key)
            lines.append(
                f"| `{section}.{key}` | {_describe_type(key, field, schema)} | "
                f"`{_spell(default)}` | {_sentence(field['description'])} |"
            )
    return "\n".join(lines) + "\n"


def write_commands() -> str:
    """Return the page of the command `idc`: every command with its arguments."""
    lines = [
        "# Commands",
        "",
        "`idc --help` lists them on one screen, in the order of a model's life; each has `--help`. "
        f"{_cell(' '.join(EXIT_CODES.split()))}",
    ]
    for group in cli.GROUPS:
        lines += ["", f"## {_cell(group.title)}", ""]
        if group.line is not None:  # alike: a table says enough
            lines += ["| command | what it does |", "|---|---|"]
            lines += [f"| `idc {each.name}` | {_sentence(each.what)} |" for each in group.commands]
            continue
        for command in group.commands:
            lines += _describe_command(command)
    return "\n".join(lines) + "\n"


def write_metrics() -> str:
    """Return the page of the keys of `reports/metrics.json`."""
    lines = [
        "# Metric keys",
        "",
        "Keys of `reports/metrics.json`; MLflow shows those that a person compares. A key is "
        "`<set>/<metric>`, and with `_low` and `_high` the ends of its 95 % interval by case "
        "bootstrap. A metric that is undefined on a set is left out, and the report says why.",
        "",
        "| set | patches |",
        "|---|---|",
        *(f"| `{name}` | {what} |" for name, what in _SUBSETS.items()),
        "| `test_<name>` | test, scored by one member of the fusion alone or by one baseline |",
        "| `fusion_minus_<name>` | difference of the fusion to it, paired by case |",
        "| `test_burden` | errors of the burden of whole cases |",
        "| `test_sliver` | patches at the edge of a slide |",
        "",
        "| metric | primary | meaning |",
        "|---|---|---|",
    ]
    for name in metrics.METRICS:
        primary = "yes" if name in metrics.PRIMARY else ""
        meaning = (getattr(metrics, name).__doc__ or "").partition("\n")[0]
        meaning = meaning.removeprefix("Return ").removeprefix("the ")
        lines.append(f"| `{name}` | {primary} | {_sentence(meaning)} |")
    return "\n".join(lines) + "\n"


def write_tables() -> str:
    """Return the page of the tables between stages: every column with type and rule."""
    lines = [
        "# Tables",
        "",
        "Stages hand each other these tables. Every read and write checks the schema; a fault is "
        "one line that names column, row and rule.",
    ]
    for name, schema, meaning in _schemas():
        lines += ["", f"## {name}", "", meaning, ""]
        lines += [f"Written by the stage `{schema.name}`.", ""]
        lines += ["| column | type | rule |", "|---|---|---|"]
        for column in schema.columns.values():
            rules = "; ".join(str(check.error or check.name) for check in column.checks)
            unique = "unique" if column.unique else ""
            rule = "; ".join(filter(None, (rules, unique)))
            optional = "" if column.required else ", where there is one"
            kind = str(column.dtype).partition("[")[0]  # string[pyarrow]
            lines.append(f"| `{_cell(column.name)}` | {kind}{optional} | {_cell(rule)} |")
        if schema.unique:
            together = ", ".join(f"`{column}`" for column in schema.unique)
            lines += ["", f"Unique together: {together}."]
    return "\n".join(lines) + "\n"


def write_stages() -> str:
    """Return the page of the stages: what each reads and writes, as `dvc.yaml` has it."""
    graph = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    lines = [
        "# Stages",
        "",
        "`dvc repro` (or `make repro`) runs, in this order, those whose inputs, parameters or code "
        "changed. `idc STAGE` runs one of them whatever DVC thinks. `make plan` says which would "
        "run, and why.",
    ]
    for stage in STAGES:
        entry = graph[stage]
        purpose = (inspect.getdoc(importlib.import_module(f"idc.stages.{stage}")) or "").partition(
            "\n"
        )[0]
        outs = [_path(out) for kind in ("outs", "metrics", "plots") for out in entry.get(kind, [])]
        deps = [_path(dep) for dep in entry.get("deps", [])]
        code = [dep for dep in deps if dep.startswith("src/")]
        lines += ["", f"## `{stage}`", "", _cell(purpose), ""]
        lines += ["| | |", "|---|---|"]
        for title, names in (
            ("parameters", [f"{name}.*" for name in entry.get("params", [])]),
            ("reads", [dep for dep in deps if dep not in code]),
            ("writes", outs),
            ("code", code),
        ):
            if names:
                lines.append(f"| {title} | {', '.join(f'`{name}`' for name in names)} |")
    return "\n".join(lines) + "\n"


def _leaves(
    content: Mapping[str, Any], schema: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield key and field of every value of a section, nested ones under dotted keys."""
    for key, field in content["properties"].items():
        below = _resolve(field, schema)
        if "properties" in below:
            yield from _leaves(below, schema, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", field


def _resolve(field: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a reference stands for, one level deep."""
    name = str(field.get("$ref", "")).rpartition("/")[2]
    found: dict[str, Any] = schema["$defs"][name] if name else dict(field)
    return found


def _describe_type(key: str, field: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    return ", ".join(filter(None, (_type(field, schema), _unit(key))))


def _type(field: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    field = _resolve(field, schema)
    if "anyOf" in field:
        return " or ".join(_type(choice, schema) for choice in field["anyOf"])
    if "enum" in field or "const" in field:
        return " or ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    if field.get("type") == "null":
        return "`null`"
    if field.get("type") == "array":
        kind = f"list of {_type(field.get('items', {}), schema)}"
    elif field.get("type") == "object":
        kind = "mapping"
    else:
        kind = _TYPES[field["type"]]
    if {"minimum", "maximum"} <= field.keys():
        return f"{kind}, {field['minimum']:.15g} to {field['maximum']:.15g}"
    bounds = [rule.format(field[name]) for name, rule in _BOUNDS.items() if name in field]
    return ", ".join((kind, *bounds))


def _unit(key: str) -> str:
    return next((unit for ending, unit in _UNITS.items() if key.endswith(ending)), "")


def _at(values: Any, key: str) -> Any:  # noqa: ANN401  (what YAML holds)
    for part in key.split("."):
        values = values[part]
    return values


def _spell(value: Any) -> str:  # noqa: ANN401  (what YAML holds)
    flow = yaml.safe_dump(value, default_flow_style=True, width=1000)
    return flow.removesuffix("\n").removesuffix("\n...")


def _describe_command(command: Command) -> list[str]:
    files = f"*Reads* {_cell(command.reads)}. *Writes* {_cell(command.writes)}."
    meaning = f"{_sentence(command.what)} {_sentence(command.details)} {files}"
    lines = [f"### `idc {command.name}`", "", " ".join(meaning.split()), ""]
    rows = [_describe_argument(action) for action in _arguments(create_parser(command))]
    return [*lines, "| argument | meaning |", "|---|---|", *rows, ""] if rows else lines


def _arguments(command: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    return (action for action in command._actions if action.help != argparse.SUPPRESS
            and not isinstance(action, argparse._HelpAction))  # fmt: skip


def _describe_argument(action: argparse.Action) -> str:
    value = action.metavar or (
        f"{{{','.join(map(str, action.choices))}}}" if action.choices else action.dest.upper()
    )
    name = action.option_strings[-1] if action.option_strings else action.metavar or action.dest
    takes_value = action.option_strings and action.nargs != 0
    shown = f"{name} {value}" if takes_value else str(name)
    return f"| `{_cell(shown)}` | {_sentence(action.help or '')} |"


def _schemas() -> Iterator[tuple[str, pa.DataFrameSchema, str]]:
    """Yield title, schema and meaning: the string that stands behind each schema in its module."""
    body = ast.parse(inspect.getsource(tables)).body
    for statement, behind in itertools.pairwise(body):
        if not isinstance(statement, ast.Assign) or not isinstance(statement.targets[0], ast.Name):
            continue
        name = statement.targets[0].id
        schema = getattr(tables, name)
        if not isinstance(schema, pa.DataFrameSchema):
            continue
        if not (isinstance(behind, ast.Expr) and isinstance(behind.value, ast.Constant)):
            raise ValueError(f"{tables.__file__}: {name} lacks the string that says what it holds")
        title = name.removesuffix("_SCHEMA").replace("_", " ").capitalize()
        yield title, schema, inspect.cleandoc(str(behind.value.value))


def _path(entry: str | Mapping[str, Any]) -> str:
    return entry if isinstance(entry, str) else next(iter(entry))


def _sentence(text: str) -> str:
    """Return a text on one line that begins with a capital and ends in a full stop."""
    line = _cell(" ".join(text.split()))
    ending = "" if line.endswith((".", "`", ")", ":")) or not line else "."
    return f"{line[:1].upper()}{line[1:]}{ending}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
