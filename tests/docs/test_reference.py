"""The generated pages name everything that there is, and stay readable."""

import importlib.util
import re
import subprocess
import sys

import pytest
import yaml

from idc.cli import COMMANDS
from idc.core.config import dot_keys
from idc.evaluation.statistics.metrics import METRICS
from idc.stages import STAGES
from tests.docs.pages import DOCS, ROOT
from tests.docs.test_pages import MAX_PAGE_LINES


@pytest.fixture(scope="module")
def reference():
    spec = importlib.util.spec_from_file_location("reference", DOCS / "hooks/reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["parameters", "commands", "metrics", "tables", "stages"])
def test_generated_page_when_written_then_it_is_not_long(reference, page):
    text = getattr(reference, f"write_{page}")()
    assert len(text.splitlines()) <= MAX_PAGE_LINES


def test_parameters_when_written_then_every_value_has_type_default_and_meaning(reference):
    rows = re.findall(
        r"^\| `([\w.]+)` \| (.+) \| (.+) \| (.+) \|$", reference.write_parameters(), re.M
    )
    defaults = dot_keys(yaml.safe_load((ROOT / "params.yaml").read_text()))
    named = {key for key, *cells in rows if all(cell.strip() for cell in cells)}
    # what may be null as a whole has one row
    assert [leaf for leaf in defaults if not {leaf, leaf.rpartition(".")[0]} & named] == []


def test_commands_when_written_then_all_are_there_with_every_option(reference):
    page = reference.write_commands()
    assert [name for name in COMMANDS if f"`idc {name}`" not in page] == []
    assert "`--set KEY=VALUE`" in page


def test_metrics_and_stages_when_written_then_all_are_there(reference):
    metrics, stages = reference.write_metrics(), reference.write_stages()
    assert [name for name in METRICS if f"| `{name}` |" not in metrics] == []
    assert [name for name in STAGES if f"## `{name}`" not in stages] == []


@pytest.mark.slow
def test_site_when_built_then_it_is_strict_and_loads_nothing_from_elsewhere(tmp_path):
    command = ["-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path / "site"]
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True)
    loads = re.compile(
        r'<(?:script|img|iframe)\b[^>]*\bsrc="?(?:https?:)?//|<link\b[^>]*\brel="?(?:stylesheet|preconnect)\b[^>]*\bhref="?(?:https?:)?//'
    )
    for page in (tmp_path / "site").rglob("*.html"):
        assert not loads.search(page.read_text(encoding="utf-8")), page
