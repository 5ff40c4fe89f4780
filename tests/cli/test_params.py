import json
import shutil

import pytest
import yaml

from idc.cli import main
from idc.core.config import dot_keys


@pytest.fixture
def values(project_root, tmp_path, monkeypatch):
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy2(project_root / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    return dot_keys(yaml.safe_load((tmp_path / "params.yaml").read_text(encoding="utf-8")))


def test_params_when_printed_then_each_key_has_a_line_with_its_value(values, capsys):
    assert main(["params"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(values)
    assert [json.loads(line.split(maxsplit=1)[1]) for line in lines] == list(values.values())


def test_params_when_counted_then_prints_the_number_alone(values, capsys):
    assert main(["params", "--count"]) == 0
    assert capsys.readouterr().out == f"{len(values)}\n"


@pytest.mark.parametrize("count", [True, False])
def test_params_when_json_is_wanted_then_prints_what_a_script_reads(values, capsys, count):
    assert main(["params", "--json", *(["--count"] if count else [])]) == 0
    expected = {"count": len(values)} if count else values
    assert json.loads(capsys.readouterr().out) == expected
