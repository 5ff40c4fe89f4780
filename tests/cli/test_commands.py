"""The one front door: a list on one screen, quick to start, with help that says what is touched."""

import json
import os
import subprocess
import sys

import pytest

from idc.cli import COMMANDS, EXIT_INPUT, GROUPS, format_help, main
from idc.cli.command import Command, create_parser
from idc.stages import STAGES

HEAVY = ("torch", "pandas", "numpy", "mlflow", "pydantic", "prefect", "dvc", "matplotlib", "yaml")


def test_help_when_asked_then_it_fits_one_screen_and_lists_every_command_once():
    lines = format_help().splitlines()
    assert len(lines) <= 50
    assert max(map(len, lines)) <= 100
    for command in COMMANDS.values():
        listed = [line for line in lines if line.split()[:1] == [command.name]]
        assert len(listed) == 1 or command.name in STAGES
    assert f"  {' '.join(STAGES)}" in lines
    assert [line for line in lines if line in {group.title for group in GROUPS}] == [
        group.title for group in GROUPS
    ]


@pytest.mark.parametrize("arguments", [["--help"], ["trian"], ["sweep", "--help"]])
def test_help_when_asked_then_nothing_heavy_is_imported(arguments):
    code = (
        "import sys\nfrom idc.cli import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit:\n    pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stderr.splitlines()[-1].split())
    assert "idc.cli" in loaded
    assert not loaded & set(HEAVY)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_when_asked_then_says_what_it_reads_writes_and_how_it_ends(name):
    text = create_parser(COMMANDS[name]).format_help()
    for said in ("\nReads:  ", "\nWrites: ", "Exit codes: 0 done; 1 ", "75 "):
        assert said in text
    assert ("--json" in text) == COMMANDS[name].json


@pytest.mark.parametrize("name", ["check", "doctor"])
def test_help_of_what_tries_a_server_when_asked_then_names_all_that_it_writes_there(name):
    writes = create_parser(COMMANDS[name]).format_help().partition("\nWrites: ")[2]
    for written in ("the experiment", "a run with a file", "an alias"):
        assert written in writes


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["trian"], "idc: error: there is no command trian: did you mean train?"),
        (["crossvalidate"], "idc: error: there is no command crossvalidate: did you mean "
                            "cross-validate?"),
        (["xyzzy"], "idc: error: there is no command xyzzy: `idc --help` lists what there is"),
        (["gc", "--day", "3"], "idc gc: error: there is no option --day: did you mean --days?"),
        (["learning-curve", "a", "--patchs", "9"],
         "idc learning-curve: error: there is no option --patchs: did you mean --patches?"),
        (["lineage"], "idc lineage: error: the following arguments are required: version: "
                      "`idc lineage --help` shows its options"),
        (["gc", "--days", "soon"], "idc gc: error: argument --days: invalid float value: 'soon': "
                                   "`idc gc --help` shows its options"),
    ],
)  # fmt: skip
def test_command_when_a_word_is_wrong_then_one_line_names_the_nearest(capsys, arguments, line):
    assert main(arguments) == EXIT_INPUT
    assert capsys.readouterr().err.splitlines() == [line]


def test_command_when_none_is_given_then_lists_them_and_fails(capsys):
    assert main([]) == EXIT_INPUT
    assert capsys.readouterr().out.strip() == format_help()


def test_json_when_the_input_is_wrong_then_what_where_and_fix_are_fields(
    capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert main(["check", "--json"]) == EXIT_INPUT
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {
        "error": {
            "what": "dvc.yaml is not here", "where": None, "fix": "run from the project's root",
        }
    }  # fmt: skip
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "unbuffered"),
    [(["--help"], ""), (["--help"], "1"), (["sweep", "--help"], ""), (["params"], "1")],
)
def test_command_when_the_reader_stops_early_then_no_traceback_and_the_code_of_sigpipe(
    project_root, arguments, unbuffered
):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "idc", *arguments],
        cwd=project_root, env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        stdout=write, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    os.close(write)
    assert done.stderr == ""
    assert done.returncode == 141


def test_command_when_piped_to_head_then_its_first_line_is_all_that_is_seen(project_root):
    piped = f"set -o pipefail; {sys.executable} -m idc --help | head -1"
    done = subprocess.run(
        ["bash", "-c", piped], cwd=project_root, capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == format_help().splitlines()[:1]
    assert done.stderr == ""


def test_command_when_started_without_standard_output_then_it_does_its_work(project_root):
    closed = f"{sys.executable} -m idc --help >&-"
    done = subprocess.run(
        ["bash", "-c", closed], cwd=project_root, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_command_when_a_pipe_breaks_and_there_is_no_output_then_the_error_is_not_hidden(
    monkeypatch,
):
    def run(_):
        raise BrokenPipeError("a socket's")

    broken = Command("check", "fail", run, reads="", writes="", anywhere=True)
    monkeypatch.setitem(COMMANDS, "check", broken)
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(BrokenPipeError, match="a socket's"):
        main(["check"])


def test_command_when_another_pipe_breaks_then_the_error_is_not_hidden(monkeypatch, capfd):
    def run(_):
        raise BrokenPipeError("a socket's")

    broken = Command("check", "fail", run, reads="", writes="", anywhere=True)
    monkeypatch.setitem(COMMANDS, "check", broken)
    with pytest.raises(BrokenPipeError, match="a socket's"):
        main(["check"])
    assert capfd.readouterr().out == ""
