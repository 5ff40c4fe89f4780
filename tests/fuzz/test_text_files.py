"""Whatever stands in the files that people edit, they are read or refused in words."""

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from idc.core.config import Params, SubsetFractions, flatten, load_params
from idc.core.files import load_json
from idc.data.manifest.label_overrides import load_label_overrides
from idc.data.split.case_subsets import (
    ensure_case_subsets,
    join_case_subsets,
    load_case_subsets,
    save_case_subsets,
)
from idc.data.split.splitting import drop_excluded
from idc.data.tables import MANIFEST_SCHEMA, SPLITS_SCHEMA, load_table
from idc.experiments.folds import Plan
from idc.experiments.plan_files import parse_setting, read_overrides, read_plan
from idc.experiments.sweep import SweepPlan
from idc.runs.lineage import (
    load_lock,
    recorded_md5,
    reject_unrecorded_results,
    result_digest,
    stale_pointers,
)
from idc.runs.workspace import override_params
from tests.fuzz.hostile import edited, one_line, refusal, replaced, share, values

ROOT = Path(__file__).parents[2]
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
SHORT_PARAMS = yaml.safe_dump(PARAMS, sort_keys=False).encode()
FRACTIONS = SubsetFractions(val=0.15, gate=0.1, test=0.2)
SUBSETS = b"# seed 17, val 0.15, gate 0.1, test 0.2\ncase,subset\n8863,train\n8864,val\n8865,test\n"
OVERRIDES = b'case,x,y,label,reason\n8863,1,51,1,"seen again, twice"\n8864,51,1,0,artefact\n'
INDEX = pd.DataFrame(
    {"case": ["8863", "8864"], "x": [1, 51], "y": [51, 1], "label": [0, 1]}
).astype({"x": "int32", "y": "int32", "label": "int8"})
MANIFEST = b"row,case,x,y,label\n3,8863,1,51,0\n1,8864,51,1,1\n"
SPLITS = (
    b"row,case,x,y,label,split,in_manifest\n1,8864,51,1,1,train,True\n3,8863,1,51,0,val,False\n"
)
LOCK = {
    "schema": "2.0",
    "stages": {
        "ingest": {
            "cmd": "python -m idc ingest",
            "deps": [{"path": "data/raw", "hash": "md5", "md5": "0" * 32 + ".dir", "size": 1}],
            "params": {"params.yaml": {"ingest": {"max_unreadable_share": 0.0}}},
            "outs": [{"path": "data/patches", "hash": "md5", "md5": "1" * 32 + ".dir"}],
        },
        "train": {"cmd": "x", "outs": [{"path": "a.csv", "hash": "md5", "md5": "2" * 32}]},
    },
}
POINTER = b"outs:\n- md5: 00000000000000000000000000000000\n  size: 3\n  hash: md5\n  path: a.zip\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("hostile")


@pytest.fixture(scope="module")
def path(folder):
    return folder / "file"


def yaml_of(strategy):
    return strategy.map(lambda content: yaml.safe_dump(content, allow_unicode=True).encode())


# --- params.yaml, plans, settings ---


@share(0.18)
@given(content=edited(SHORT_PARAMS) | yaml_of(replaced(PARAMS)))
def test_load_params_when_the_file_is_hostile_then_reads_or_says_what_is_wrong(path, content):
    path.write_bytes(content)
    error = refusal(lambda: flatten(load_params(path)))
    if error is not None:  # a line per fault
        lines = str(error).split("\n")
        assert all(line.startswith(str(path)) and len(line) < 2000 for line in lines)


@share(0.08)
@given(
    text=st.text(max_size=30)
    | edited(b"train.epochs=[3, {a: 1}]").map(lambda raw: raw.decode(errors="replace"))
)
def test_parse_setting_when_the_text_is_hostile_then_reads_or_says_what_is_wrong(text):
    assert one_line(refusal(lambda: parse_setting(text)))


@share(0.03)
@given(
    overrides=st.dictionaries(
        st.sampled_from(list(flatten(Params.model_validate(PARAMS)))) | st.text(max_size=9),
        values(),
        max_size=2,
    )
)
def test_override_params_when_values_are_hostile_then_writes_or_says_what_is_wrong(path, overrides):
    path.write_bytes(SHORT_PARAMS)
    refusal(lambda: override_params(path, overrides))


@pytest.mark.parametrize(("kind", "name"), [(SweepPlan, "sweep"), (Plan, "screen")])
@share(0.02)
@given(data=st.data())
def test_read_plan_when_the_file_is_hostile_then_reads_or_says_what_is_wrong(
    path, kind, name, data
):
    sound = yaml.safe_load((ROOT / f"configs/{name}.yaml").read_text(encoding="utf-8"))
    path.write_bytes(data.draw(edited(yaml.safe_dump(sound).encode()) | yaml_of(replaced(sound))))
    assert one_line(refusal(lambda: read_plan(path, kind, example="configs")))
    assert one_line(refusal(lambda: read_overrides(path, [])))


# --- tables that people edit ---


@share(0.12)
@given(content=edited(OVERRIDES))
def test_load_label_overrides_when_the_file_is_hostile_then_reads_or_says_which_line(path, content):
    path.write_bytes(content)
    found = []
    error = refusal(lambda: found.append(load_label_overrides(path, INDEX)))
    assert one_line(error)
    for table in found:
        assert set(table["label"]) <= {0, 1}
        assert (INDEX["label"].to_numpy()[table["row"]] != table["label"]).all()


@share(0.14)
@given(content=edited(SUBSETS), theirs=edited(SUBSETS))
def test_case_subsets_when_the_file_is_hostile_then_no_case_changes_its_subset(
    folder, content, theirs
):
    path = folder / "case_subsets.csv"
    path.write_bytes(content)
    known = []
    error = refusal(lambda: known.append(load_case_subsets(path, FRACTIONS, 17)))
    assert one_line(error)
    if error is None:
        added = {"new": "test"}
        if "new" not in known[0]:
            save_case_subsets(path, FRACTIONS, 17, before=known[0], added=added)
            assert load_case_subsets(path, FRACTIONS, 17) == known[0] | added
    refusal(lambda: ensure_case_subsets(path))
    texts = [each.decode(errors="replace") for each in (content, theirs)]
    refusal(lambda: join_case_subsets(*texts))


@share(0.04)
@given(content=edited(b"8863\n8864 9999\n"))
def test_drop_excluded_when_the_case_list_is_hostile_then_reads_or_says_what_is_wrong(
    folder, content
):
    (folder / "list.txt").write_bytes(content)
    config = Params.model_validate(PARAMS).split.model_copy(update={"exclude": "list.txt"})
    assert one_line(refusal(lambda: drop_excluded(INDEX, config, folder)))


@pytest.mark.parametrize(
    ("sound", "schema"), [(MANIFEST, MANIFEST_SCHEMA), (SPLITS, SPLITS_SCHEMA)]
)
@share(0.01)
@given(data=st.data())
def test_load_table_when_the_file_is_hostile_then_reads_or_says_what_is_wrong(
    folder, sound, schema, data
):
    path = folder / "table.csv"
    path.write_bytes(data.draw(edited(sound)))
    assert one_line(refusal(lambda: load_table(path, schema)))


# --- what stages and DVC wrote ---


def read_lock(folder):
    stages = load_lock(folder)
    result_digest(stages)
    reject_unrecorded_results(folder, stages)
    recorded_md5(stages, "ingest", "data/raw")


LONG = "9" * 5000


@share(0.12)
@example(content=yaml.safe_dump(LOCK).replace("data/patches", LONG).encode())
@example(content=yaml.safe_dump(LOCK).replace("data/patches", "a/" * 3000).encode())
@given(content=edited(yaml.safe_dump(LOCK, sort_keys=False).encode()) | yaml_of(replaced(LOCK)))
def test_load_lock_when_the_file_is_hostile_then_reads_or_says_what_is_wrong(folder, content):
    (folder / "dvc.lock").write_bytes(content)
    assert one_line(refusal(lambda: read_lock(folder)))


@share(0.04)
@example(content=POINTER.replace(b"a.zip", LONG.encode()))
@given(content=edited(POINTER) | yaml_of(replaced(yaml.safe_load(POINTER))))
def test_stale_pointers_when_a_pointer_is_hostile_then_reads_or_says_what_is_wrong(folder, content):
    (folder / "data/raw").mkdir(exist_ok=True, parents=True)
    (folder / "data/raw/a.zip.dvc").write_bytes(content)
    assert one_line(refusal(lambda: stale_pointers(folder, by_content=True)))


@share(0.03)
@given(content=edited(json.dumps({"a": [1, {"b": None}]}).encode()))
def test_load_json_when_the_file_is_hostile_then_reads_or_says_what_is_wrong(path, content):
    path.write_bytes(content)
    assert one_line(refusal(lambda: load_json(path)))
