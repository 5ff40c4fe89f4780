"""`idc synth` with each of its options: what lies in the zip that it wrote."""

import re
import subprocess
import sys
import zipfile
from collections import Counter, defaultdict
from pathlib import Path

import cv2
import numpy as np
import pytest

import idc.synthetic
from idc.cli import main
from idc.core import processes
from idc.synthetic import ArchivePlan, create_archive

SIZE = ("--cases", "2", "--patches-per-case", "16")
MEMBER = re.compile(r"(\d+)/([01])/\1_idx5_x(\d+)_y(\d+)_class\2\.png")
COPIES = "IDC_regular_ps50_idx5/"
EDGE_PX = 50


@pytest.fixture
def synthesise(tmp_path, monkeypatch):
    """`synthesise("--null")`: run the command in an empty folder and return the zip's path."""
    monkeypatch.chdir(tmp_path)
    # processes that are started anew take seconds, which one test spends; bytes are the same
    monkeypatch.setattr(processes, "count_cores", lambda: 1)

    def run(*options, size=SIZE):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.zip"
        assert main(["synth", str(path), *size, *options]) == 0
        return path

    return run


def read_patches(path):
    """PNG by case, place and label, of the patches that are not the second copies."""
    with zipfile.ZipFile(path) as archive:
        members = [name for name in archive.namelist() if not name.startswith(COPIES)]
        return {parse(name): archive.read(name) for name in members}


def parse(member):
    matched = MEMBER.fullmatch(member)
    assert matched, member
    case, label, x, y = matched.groups()
    return case, int(x), int(y), int(label)


def read_places(path):
    """PNG by case and place, whatever the label."""
    return {place[:3]: png for place, png in read_patches(path).items()}


def is_whole(png):
    return decode(png).shape[:2] == (EDGE_PX, EDGE_PX)


def decode(png):
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)


def test_synth_when_run_as_a_program_then_the_zip_has_the_published_names_sizes_and_labels(
    tmp_path,
):
    command = ["synth", "new/folder/a.zip", "--cases", "3", "--patches-per-case", "20"]
    done = subprocess.run(
        [sys.executable, "-m", "idc", *command], cwd=tmp_path,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.splitlines()[-1] == "new/folder/a.zip written"
    path = tmp_path / "new/folder/a.zip"
    patches = read_patches(path)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        for member in archive.namelist():
            if not member.startswith(COPIES):
                assert archive.read(COPIES + member) == archive.read(member)
        assert len(archive.namelist()) == 2 * len(patches)

    sizes = Counter(case for case, _, _, _ in patches)
    assert sorted(sizes) == ["90001", "90002", "90003"]
    assert all(10 <= size <= 32 for size in sizes.values())  # half to 1.6 times the mean
    assert {label for _, _, _, label in patches} == {0, 1}
    assert len({place[:3] for place in patches}) == len(patches)  # no place has two labels
    assert all(x % EDGE_PX == y % EDGE_PX == 1 for _, x, y, _ in patches)
    for png in patches.values():
        pixels = decode(png)
        assert pixels.dtype == np.uint8
        assert pixels.ndim == 3
        assert max(pixels.shape[:2]) == EDGE_PX
    assert list(path.parent.iterdir()) == [path]


def test_synth_when_nothing_but_the_path_is_given_then_the_archive_is_the_one_that_the_help_says(
    tmp_path, monkeypatch
):
    asked = []

    def create(path, plan, **others):  # the default archive takes half a minute
        asked.append((path, plan, others))

    monkeypatch.setattr(idc.synthetic, "create_archive", create)
    assert main(["synth", "a.zip"]) == 0
    plan = ArchivePlan(
        num_cases=30, patches_per_case=100, seed=17, difficulty="texture", null=False, shortcut=None
    )
    assert asked == [
        (Path("a.zip"), plan, {"masks": None, "num_processes": processes.count_cores()})
    ]


def test_synth_when_a_total_is_given_then_there_are_just_so_many_patches(synthesise):
    patches = read_patches(synthesise(size=("--cases", "5", "--patches", "61")))
    assert len(patches) == 61
    assert len({case for case, _, _, _ in patches}) == 5


@pytest.mark.parametrize("difficulty", ["texture", "real"])
def test_synth_when_a_difficulty_is_given_then_it_is_drawn_so(synthesise, tmp_path, difficulty):
    path = synthesise("--difficulty", difficulty, "--seed", "3")
    plan = ArchivePlan(num_cases=2, patches_per_case=16, seed=3, difficulty=difficulty)
    create_archive(tmp_path / "same.zip", plan)
    assert path.read_bytes() == (tmp_path / "same.zip").read_bytes()


def test_synth_when_the_seed_is_another_then_so_is_the_archive(synthesise):
    first, again, other = (read_patches(synthesise("--seed", seed)) for seed in ("17", "17", "18"))
    assert first == again
    assert first == read_patches(synthesise())
    assert not set(first.values()) & set(other.values())


def test_synth_when_null_then_the_pixels_stay_and_the_labels_are_others(synthesise):
    plain, null = synthesise(), synthesise("--null")
    assert read_places(null) == read_places(plain)
    assert set(read_patches(null)) != set(read_patches(plain))


@pytest.mark.parametrize("cue", ["stain", "pad", "ink"])
def test_synth_when_a_shortcut_is_planted_then_it_is_where_the_shares_say_and_nowhere_else(
    synthesise, cue
):
    plain = read_patches(synthesise())
    shares = ("--cue-share-positive", "1", "--cue-share-negative", "0")
    planted = read_patches(synthesise("--shortcut", cue, *shares))
    assert planted.keys() == plain.keys()
    changed = {place for place, png in planted.items() if png != plain[place]}
    assert changed == {place for place, png in plain.items() if place[3] == 1 and is_whole(png)}
    assert changed


def test_synth_when_masks_are_wanted_then_each_patch_has_one_and_the_zip_is_the_same(
    synthesise, tmp_path
):
    cue = ("--shortcut", "ink", "--cue-share-positive", "0", "--cue-share-negative", "1")
    with_masks = synthesise(*cue, "--masks", "masks")
    assert with_masks.read_bytes() == synthesise(*cue).read_bytes()
    patches = read_patches(with_masks)
    found = defaultdict(set)
    for path in (tmp_path / "masks").rglob("*.png"):
        of, case, name = path.relative_to(tmp_path / "masks").parts
        place = parse(f"{case}/{name[-5]}/{name}")
        found[of].add(place)
        mask = decode(path.read_bytes())
        assert mask.shape == decode(patches[place]).shape[:2]
        assert set(np.unique(mask)) <= {0, 255}
    assert found["nests"] == set(patches)
    whole_negative = {place for place, png in patches.items() if place[3] == 0 and is_whole(png)}
    assert found["cue"] == whole_negative != set()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--cases", "0"], "--cases 0: at least 1 is needed"),
        (["--patches-per-case", "3"], "--patches-per-case 3: at least 4 are needed"),
        (["--cases", "3", "--patches", "11"], "--patches 11: 3 cases need at least 12"),
        (["--patches", "9", "--patches-per-case", "9"], "not allowed with argument"),
        (["--seed", "-1"], "--seed -1: at least 0 is needed"),
        (["--shortcut", "ink", "--cue-share-positive", "1.5"], "it must be between 0 and 1"),
        (["--difficulty", "hard"], "invalid choice: 'hard'"),
    ],
)
def test_synth_when_an_option_is_wrong_then_one_line_says_so_and_there_is_no_zip(
    tmp_path, monkeypatch, capsys, options, said
):
    monkeypatch.chdir(tmp_path)
    assert main(["synth", "a.zip", *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert list(tmp_path.iterdir()) == []
