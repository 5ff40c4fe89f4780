"""The stage as a whole; where its process is killed or the disk is full, as the command `idc`."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
import yaml

from idc.core.errors import InputError
from idc.data.patches import load_pixels
from idc.data.tables import INDEX_SCHEMA, load_table
from idc.runs.workspace import stage_environment
from idc.stages import ingest

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60
NUM_MANY = 6000

OUTPUTS = ("data/patches/pixels.npy", "data/patches/index.parquet", "reports/ingest.json")

FILL_DISK_WHILE_DECODING = """
import resource, sys
from idc.cli import main
from idc.data.ingest import pixel_store

lay_out = pixel_store._lay_out

def lay_out_then_limit(path, num_patches):
    lay_out(path, num_patches)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))

before = resource.getrlimit(resource.RLIMIT_FSIZE)
pixel_store._lay_out = lay_out_then_limit
code = main(["ingest"])
resource.setrlimit(resource.RLIMIT_FSIZE, before)  # coverage too writes a file at the end
sys.exit(code)
"""


def make_pixels(seed, width=50):
    return np.random.default_rng(seed).integers(0, 200, (50, width, 3), dtype=np.uint8)


def encode(pixels):
    return cv2.imencode(".png", pixels[..., ::-1])[1].tobytes()


def member(i, label=0, case="8863"):
    return f"{case}/{label}/{case}_idx5_x{50 * i + 1}_y1_class{label}.png"


def write_zip(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)


def contents(folder):
    return {name: (folder / name).read_bytes() for name in OUTPUTS}


def hidden_files(folder):
    return [path.name for path in (folder / "data").iterdir() if path.name.startswith(".")]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty project, entered."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def run(change_params):
    """`run(max_unreadable_share=0.1)`: run the stage in this process."""

    def run(**changes):
        ingest.run(change_params(ingest=changes, runtime={"num_processes": 1}))

    return run


@pytest.fixture
def gappy(project):
    """20 patches; the second is no picture, the third is damaged."""
    members = {member(i, i % 2, str(i % 3)): encode(make_pixels(i)) for i in range(20)}
    members[member(1, 1, "1")] = b"no picture"
    members[member(2, 0, "2")] = encode(make_pixels(2))[:-20]
    write_zip(project / "data/raw/a.zip", members)
    return project


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A project with thousands of patches, for tests to copy, and what the stage makes of it."""
    folder = tmp_path_factory.mktemp("many")
    pictures = [encode(make_pixels(i)) for i in range(40)]
    members = {member(i, i % 2, str(i // 500)): pictures[i % 40] for i in range(NUM_MANY)}
    write_zip(folder / "data/raw/a.zip", members)
    shutil.copy2(ROOT / "dvc.yaml", folder)
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["runtime"]["num_processes"] = 2
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    return folder


@pytest.fixture
def many_copy(many, tmp_path):
    return shutil.copytree(many, tmp_path / "many")


@pytest.fixture
def command():
    """`command(folder)`: the stage as a process of its own; none outlives the test."""
    started = []

    def start(folder, code=None, **settings):
        arguments = ["-m", "idc", "ingest"] if code is None else ["-c", code]
        started.append(
            subprocess.Popen(
                [sys.executable, *arguments],
                cwd=folder,
                env=stage_environment(ROOT),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
                **settings,
            )
        )
        return started[-1]

    yield start
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_until(condition):
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def workers_of(process):
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


def wait_for_decoding(process, folder):
    """Return the decoding processes once the first of them has written its pixels."""
    pixels = folder / "data/.patches.partial/pixels.npy"

    def has_begun():
        # laid out at its full size, the file takes room only where pixels were written
        return pixels.exists() and pixels.stat().st_blocks > 1000

    wait_until(lambda: process.poll() is not None or has_begun())
    workers = workers_of(process)
    assert len(workers) == 2
    return workers


def error_lines(process):
    """Wait for the end; return the exit code and the lines after what the stage logs."""
    _, errors = process.communicate(timeout=PATIENCE_S)
    lines = errors.splitlines()
    assert lines.pop(0) == f"{NUM_MANY} patches listed, 0 copies"
    return process.returncode, lines


# --- what it writes ---


def test_ingest_when_there_is_no_archive_then_says_what_to_download(project, run):
    with pytest.raises(InputError, match=r"^data/raw holds no archive: download .*idc synth"):
        run()


def test_ingest_when_done_then_index_and_pixels_belong_together(project, run):
    write_zip(project / "data/raw/a.zip", {member(i): encode(make_pixels(i)) for i in (2, 0, 1)})
    run()
    index = load_table(project / "data/patches/index.parquet", INDEX_SCHEMA)
    assert index["x"].tolist() == [1, 51, 101]
    pixels = load_pixels(project / "data/patches/pixels.npy")
    np.testing.assert_array_equal(pixels, [make_pixels(i) for i in range(3)])


def test_ingest_when_done_then_the_report_says_what_was_in_the_archive(project, run):
    sliver = encode(make_pixels(2, width=7))
    members = {
        member(0): encode(make_pixels(0)),
        member(1, label=1): encode(make_pixels(0)),  # the same pixels as IDC+
        member(2, case="9"): sliver,
        f"IDC/{member(2, case='9')}": sliver,
        "readme.txt": b"",
    }
    write_zip(project / "data/raw/a.zip", members)
    run()
    report = json.loads((project / "reports/ingest.json").read_text())
    assert report.pop("published")["matches"] is False
    assert report.pop("flags")["sliver"] == {"num_patches": 1, "num_idc_positive": 0}
    assert report == {
        "num_patches": 3,
        "num_idc_negative": 2,
        "num_idc_positive": 1,
        "num_cases": 2,
        "num_copies": 1,
        "num_other_files": 1,
        "sizes": {"50x50": 2, "7x50": 1},
        "formats": {"8-bit RGB PNG": 3},
        "unreadable": [],
        "equal_pixels": {
            "num_groups": 1,
            "num_patches": 2,
            "num_groups_across_cases": 0,
            "num_groups_across_labels": 1,
            "across_labels": [["8863 x1 y1 label 0", "8863 x51 y1 label 1"]],
        },
        "cases": {
            "8863": {"num_idc_negative": 1, "num_idc_positive": 1},
            "9": {"num_idc_negative": 1, "num_idc_positive": 0},
        },
    }


def test_ingest_when_run_twice_then_every_byte_is_equal(gappy, run):
    run(max_unreadable_share=0.1)
    first = contents(gappy)
    run(max_unreadable_share=0.1)
    assert contents(gappy) == first


def test_ingest_when_run_elsewhere_and_later_then_every_byte_is_equal(
    gappy, run, tmp_path, monkeypatch
):
    run(max_unreadable_share=0.1)
    other = tmp_path / "other"
    (other / "data/raw").mkdir(parents=True)
    shutil.copy(gappy / "data/raw/a.zip", other / "data/raw/a.zip")
    os.utime(other / "data/raw/a.zip", ns=(0, 0))
    monkeypatch.chdir(other)
    run(max_unreadable_share=0.1)
    assert contents(other) == contents(gappy)


# --- unreadable patches ---


def test_ingest_when_the_unreadable_are_at_the_share_then_quarantines_them(gappy, run):
    run(max_unreadable_share=0.1)
    report = json.loads((gappy / "reports/ingest.json").read_text())
    assert report["num_patches"] == 18
    assert report["unreadable"] == [
        {"patch": f"a.zip:{member(1, 1, '1')}", "reason": "is neither PNG nor JPEG"},
        {"patch": f"a.zip:{member(2, 0, '2')}", "reason": "ends in the middle"},
    ]


def test_ingest_when_more_than_the_share_are_unreadable_then_names_the_first(gappy, run):
    says = r"2 of 20 patches are unreadable, first a\.zip:1/1/1_.*: is neither PNG nor JPEG; fix"
    with pytest.raises(InputError, match=says):
        run(max_unreadable_share=0.09)


def test_ingest_when_it_stops_then_the_earlier_result_stays(gappy, run):
    run(max_unreadable_share=0.1)
    before = contents(gappy)
    with pytest.raises(InputError):
        run(max_unreadable_share=0.0)
    assert contents(gappy) == before
    assert hidden_files(gappy) == []


def test_ingest_when_it_stops_for_the_first_time_then_leaves_nothing(gappy, run):
    with pytest.raises(InputError):
        run(max_unreadable_share=0.0)
    assert [path.name for path in (gappy / "data").iterdir()] == ["raw"]
    assert not (gappy / "reports").exists()


# --- full disks ---


def test_ingest_when_the_disk_has_too_little_room_then_says_how_much_is_needed(
    gappy, run, monkeypatch
):
    usage = shutil.disk_usage(gappy)._replace(free=149_999)  # 20 patches take 150,000 bytes
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(InputError, match=r"data/patches needs .* MB free: make room"):
        run(max_unreadable_share=0.1)


def test_ingest_when_the_disk_has_just_enough_room_then_runs(gappy, run, monkeypatch):
    usage = shutil.disk_usage(gappy)._replace(free=150_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    run(max_unreadable_share=0.1)


@pytest.mark.parametrize("code", [None, FILL_DISK_WHILE_DECODING], ids=["at_once", "later"])
def test_ingest_when_the_disk_fills_up_then_one_line_says_so_and_nothing_is_left(
    many_copy, command, code
):
    def limit():
        size = (NUM_MANY * 7500 // 2,) * 2
        resource.setrlimit(resource.RLIMIT_FSIZE, size)

    process = command(many_copy, code, preexec_fn=limit if code is None else None)
    line = "idc ingest: error: data/patches cannot be written whole (File too large): make room"
    assert error_lines(process) == (2, [f"{line} and run again"])
    assert [path.name for path in (many_copy / "data").iterdir()] == ["raw"]


# --- killed processes ---


@pytest.mark.slow
def test_ingest_when_killed_then_a_second_run_gives_what_an_undisturbed_one_does(
    many_copy, command, run, monkeypatch
):
    killed = command(many_copy)
    workers = wait_for_decoding(killed, many_copy)
    killed.kill()
    killed.wait(PATIENCE_S)
    assert hidden_files(many_copy) == [".patches.partial"]  # it was killed half-way
    assert not (many_copy / "data/patches").exists()
    assert psutil.wait_procs(workers, timeout=10)[1] == []

    again = command(many_copy)
    assert error_lines(again)[0] == 0
    assert hidden_files(many_copy) == []
    found = contents(many_copy)
    shutil.rmtree(many_copy / "data/patches")
    monkeypatch.chdir(many_copy)
    run()
    assert contents(many_copy) == found


def test_ingest_when_a_decoding_process_is_killed_then_one_line_says_so(many_copy, command):
    process = command(many_copy)
    workers = wait_for_decoding(process, many_copy)
    workers[0].kill()
    says = "a working process was killed, perhaps out of memory: run again with fewer"
    assert error_lines(process) == (2, [f"idc ingest: error: {says} runtime.num_processes"])
    assert [path.name for path in (many_copy / "data").iterdir()] == ["raw"]
    assert psutil.wait_procs(workers, timeout=10)[1] == []
