"""What the pages name exists: commands and their options, make targets, parameters, files."""

import re
import shlex

import pytest
import yaml

from idc.cli import COMMANDS
from idc.cli.command import parse_options
from idc.core.config import Params, dot_keys
from tests.docs.pages import LOG, PAGES, README, ROOT, name_page, read_blocks

MAX_README_LINES = 130
MAX_PAGE_LINES = 300

TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
LEAVES = set(dot_keys(yaml.safe_load((ROOT / "params.yaml").read_text())))
SECTIONS = set(Params.model_fields)
CURRENT = [path for path in PAGES if path != LOG]

each_page = pytest.mark.parametrize("page", CURRENT, ids=name_page)


def shell_lines(page):
    """Return the commands of a page: those in blocks, and inline those of `idc` and `make`."""
    lines = [
        line.removeprefix("$ ")
        for block in read_blocks(page)
        if block.language == "bash"
        for line in block.text.replace("\\\n", " ").splitlines()
    ]
    lines += re.findall(r"`((?:idc|make) [^`]+)`", page.read_text(encoding="utf-8"))
    for line in lines:
        line = re.sub(r"\$\([^)]*\)", "X", line)
        line = re.sub(r"\{(\w+),(\w+)\}(\S*)", r"\1\3 \2\3", line)  # as bash expands it
        for command in re.split(r"&&|\||;", line):
            if words := shlex.split(command, comments=True):
                yield words


def test_readme_when_read_then_it_is_short_and_shows_a_picture():
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_README_LINES
    (picture,) = re.findall(r"!\[[^]]*\]\((\S+)\)", text)
    assert (ROOT / picture).stat().st_size < 400_000


@each_page
def test_page_when_it_is_no_log_then_it_is_not_long(page):
    assert len(page.read_text(encoding="utf-8").splitlines()) <= MAX_PAGE_LINES


@each_page
def test_commands_of_idc_when_named_on_a_page_then_they_exist_with_these_options(page):
    for words in shell_lines(page):
        if words[0] != "idc" or words[1] in ("…", "COMMAND", "STAGE", "--help"):
            continue
        command, options = COMMANDS[words[1]], words[2:]
        if options not in ([], ["--help"], ["…"]):  # a name alone stands for the command
            parse_options(command, options)


@each_page
def test_targets_of_make_when_named_on_a_page_then_the_makefile_has_them(page):
    for words in shell_lines(page):
        if words[0] == "make":
            targets = {word for word in words[1:] if "=" not in word and word != "…"}
            assert targets <= TARGETS | {"X"}, words


@each_page
def test_parameters_when_named_on_a_page_then_params_yaml_has_them(page):
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"`(?:\w+=)?([a-z_]+\.[a-z0-9_]+(?:\.[a-z_]+)?)[`: =]", text))
    named |= set(re.findall(r"\b([a-z_]+\.[a-z_0-9.]+)=", text))
    parameters = {name for name in named if name.partition(".")[0] in SECTIONS}
    known = {name for leaf in LEAVES for name in (leaf, leaf.rpartition(".")[0])}
    assert {name for name in parameters if not name.endswith((".py", ".csv", ".json"))} <= known


@each_page
def test_front_door_when_a_page_names_a_command_then_it_is_idc_make_or_a_known_tool(page):
    assert not re.search(r"python -m (flows|tasks|idc\.)", page.read_text(encoding="utf-8"))


@each_page
def test_yaml_block_when_it_shows_parameters_then_their_values_are_accepted(page):
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    for block in read_blocks(page):
        if block.language == "yaml":
            for section, values in yaml.safe_load(block.text).items():
                content[section] |= values
    Params.model_validate(content)


def test_tests_when_named_on_a_page_then_they_exist():
    defined = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
    named = {
        name
        for page in PAGES
        if page != LOG
        for name in re.findall(r"`(test_\w+)`", page.read_text(encoding="utf-8"))
    }
    assert len(named) > 50
    assert named <= set(re.findall(r"^ *def (test_\w+)", defined, re.MULTILINE))
