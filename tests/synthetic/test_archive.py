import re
import tracemalloc
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from idc.core.errors import InputError
from idc.data.patches import PATCH_SIZE_PX, PatchName
from idc.synthetic import (
    CUE,
    NESTED_FOLDER,
    NESTS,
    ArchivePlan,
    Shortcut,
    create_archive,
    draw_slide,
)

NUM_CASES = 24
PATCHES_PER_CASE = 50
LARGEST_CASE = 2400  # of the published archive

NAME = re.compile(r"(\d+)_idx5_x(\d+)_y(\d+)_class([01])\.png")


@dataclass(frozen=True)
class Archive:
    path: Path
    masks: Path
    members: dict[str, bytes]

    @property
    def patches(self) -> dict[PatchName, np.ndarray]:
        return {
            parse(Path(member).name): decode(png)
            for member, png in self.members.items()
            if not member.startswith(NESTED_FOLDER)
        }


def parse(name: str) -> PatchName:
    case, *numbers = NAME.fullmatch(name).groups()
    return PatchName(case, *map(int, numbers))


def decode(png: bytes) -> np.ndarray:
    return np.asarray(cv2.imdecode(np.frombuffer(png, dtype=np.uint8), cv2.IMREAD_UNCHANGED))


def read_members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def read_pixels(path: Path) -> dict[tuple[str, int, int], bytes]:
    """The PNG at each place of each case, whatever its label."""
    named = [(parse(Path(member).name), png) for member, png in read_members(path).items()]
    return {(name.case, name.x, name.y): png for name, png in named}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    folder = tmp_path_factory.mktemp("synthetic")
    path, masks = folder / "archive.zip", folder / "masks"
    create_archive(
        path,
        ArchivePlan(num_cases=NUM_CASES, patches_per_case=PATCHES_PER_CASE, seed=7),
        masks=masks,
    )
    return Archive(path, masks, read_members(path))


# --- layout of the archive ---


def test_create_archive_when_written_then_members_follow_the_published_layout(archive):
    for member in archive.members:
        case, label, name = member.removeprefix(f"{NESTED_FOLDER}/").split("/")
        parsed = parse(name)
        assert (parsed.case, str(parsed.label)) == (case, label)
        assert parsed.x % PATCH_SIZE_PX == parsed.y % PATCH_SIZE_PX == 1
    cases = {name.case for name in archive.patches}
    assert cases == {str(90001 + index) for index in range(NUM_CASES)}


def test_create_archive_when_nested_then_every_patch_has_a_copy_of_the_same_bytes(archive):
    top = {m: png for m, png in archive.members.items() if not m.startswith(NESTED_FOLDER)}
    assert len(archive.members) == 2 * len(top)
    assert all(archive.members[f"{NESTED_FOLDER}/{m}"] == png for m, png in top.items())


def test_create_archive_when_not_nested_then_there_are_no_copies(tmp_path):
    create_archive(
        tmp_path / "a.zip", ArchivePlan(num_cases=1, patches_per_case=4, seed=0, nested=False)
    )
    assert not any(m.startswith(NESTED_FOLDER) for m in read_members(tmp_path / "a.zip"))


# --- what the bytes depend on ---


@pytest.mark.parametrize("difficulty", ["texture", "real"])
def test_create_archive_when_the_seed_is_another_then_so_are_the_bytes(tmp_path, difficulty):
    written = []
    for name, seed in (("first", 1), ("again", 1), ("other", 2)):
        create_archive(
            tmp_path / name,
            ArchivePlan(num_cases=2, patches_per_case=6, seed=seed, difficulty=difficulty),
        )
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]
    assert written[0] != written[2]


@pytest.mark.slow
@pytest.mark.parametrize("difficulty", ["texture", "real"])
def test_create_archive_when_more_processes_draw_then_bytes_are_the_same(tmp_path, difficulty):
    written = []
    for num_processes in (0, 1, 2):
        path, masks = tmp_path / f"{num_processes}.zip", tmp_path / f"masks{num_processes}"
        create_archive(
            path,
            ArchivePlan(num_cases=9, patches_per_case=5, seed=1, difficulty=difficulty),
            masks=masks,
            num_processes=num_processes,
        )
        drawn = {file.relative_to(masks): file.read_bytes() for file in masks.rglob("*.png")}
        written.append((path.read_bytes(), drawn))
    assert written[0] == written[1] == written[2]


def test_create_archive_when_there_are_more_cases_then_the_first_stay_the_same(tmp_path):
    for num_cases in (2, 3):
        path = tmp_path / f"{num_cases}.zip"
        create_archive(path, ArchivePlan(num_cases=num_cases, patches_per_case=6, seed=1))
    short, long = read_members(tmp_path / "2.zip"), read_members(tmp_path / "3.zip")
    assert short.items() < long.items()


def test_create_archive_when_a_case_has_as_many_patches_then_the_total_changes_nothing_in_it(
    tmp_path,
):
    """A total of what the cases happened to have, given to one case alone."""
    create_archive(tmp_path / "mean.zip", ArchivePlan(num_cases=1, patches_per_case=30, seed=3))
    by_mean = read_members(tmp_path / "mean.zip")
    create_archive(
        tmp_path / "total.zip", ArchivePlan(num_cases=1, num_patches=len(by_mean) // 2, seed=3)
    )
    assert read_members(tmp_path / "total.zip") == by_mean


# --- sizes ---


def test_create_archive_when_the_mean_is_given_then_cases_vary_around_it(archive):
    sizes = list(Counter(name.case for name in archive.patches).values())
    assert min(sizes) >= 0.5 * PATCHES_PER_CASE
    assert max(sizes) <= 1.6 * PATCHES_PER_CASE
    assert len(set(sizes)) > NUM_CASES / 3


@pytest.mark.parametrize(("num_cases", "num_patches"), [(3, 12), (40, 3001)])
def test_create_archive_when_the_total_is_given_then_holds_exactly_that(
    tmp_path, num_cases, num_patches
):
    path = tmp_path / "a.zip"
    create_archive(
        path, ArchivePlan(num_cases=num_cases, num_patches=num_patches, seed=2, nested=False)
    )
    names = [parse(Path(member).name) for member in read_members(path)]
    assert len(set(names)) == len(names) == num_patches
    assert len({name.case for name in names}) == num_cases


@pytest.mark.slow
def test_create_archive_when_the_total_is_given_then_cases_vary_as_the_published_ones(tmp_path):
    path = tmp_path / "a.zip"
    create_archive(path, ArchivePlan(num_cases=40, num_patches=3000, seed=2, nested=False))
    sizes = np.array(list(Counter(m.split("/")[0] for m in read_members(path)).values()))
    relative = sizes / sizes.mean()
    assert relative.min() < 0.3
    assert 1.8 < relative.max() < 2.8
    assert 0.4 < relative.std() < 0.7


def test_draw_slide_when_as_large_as_the_largest_then_takes_little_memory():
    tracemalloc.start()
    draw_slide(np.random.default_rng(0), LARGEST_CASE, burden=0.3, difficulty="real")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 300 * 2**20


# --- labels, slivers, masks ---


def test_create_archive_when_drawn_then_both_classes_occur(archive):
    assert {name.label for name in archive.patches} == {0, 1}


def test_create_archive_when_patches_touch_then_they_mostly_share_their_label(archive):
    labels = {(name.case, name.x, name.y): name.label for name in archive.patches}
    same = [
        label == labels[neighbour]
        for (case, x, y), label in labels.items()
        for neighbour in ((case, x + PATCH_SIZE_PX, y), (case, x, y + PATCH_SIZE_PX))
        if neighbour in labels
    ]
    assert np.mean(same) > 0.85


def test_create_archive_when_drawn_then_few_slivers_lie_along_one_edge_of_a_slide(archive):
    shapes = {name: pixels.shape for name, pixels in archive.patches.items()}
    slivers = [n for n, s in shapes.items() if s[:2] != (PATCH_SIZE_PX, PATCH_SIZE_PX)]
    assert 0.005 < len(slivers) / len(shapes) < 0.03
    assert np.mean([name.label for name in slivers]) < 0.3
    for sliver in slivers:
        axis = "x" if shapes[sliver][1] < PATCH_SIZE_PX else "y"
        of_case = [getattr(name, axis) for name in shapes if name.case == sliver.case]
        assert getattr(sliver, axis) == max(of_case)


def test_create_archive_when_as_small_as_can_be_then_still_shows_slivers(tmp_path):
    create_archive(
        tmp_path / "a.zip", ArchivePlan(num_cases=4, patches_per_case=4, seed=0, nested=False)
    )
    shapes = [decode(png).shape for png in read_members(tmp_path / "a.zip").values()]
    assert sum(shape != (PATCH_SIZE_PX, PATCH_SIZE_PX, 3) for shape in shapes) >= 2


def test_create_archive_when_masks_are_wanted_then_they_fit_patches_and_agree_with_labels(archive):
    shares: dict[int, list[float]] = {0: [], 1: []}
    for name, pixels in archive.patches.items():
        mask = decode((archive.masks / NESTS / name.case / str(name)).read_bytes())
        assert mask.shape == pixels.shape[:2]
        assert set(np.unique(mask)) <= {0, 255}
        shares[name.label].append(float(np.mean(mask == 255)))
    assert len(list(archive.masks.rglob("*.png"))) == len(archive.patches)
    assert np.mean(shares[0]) < 0.1 < 0.3 < np.mean(shares[1])
    assert roc_auc_score([0] * len(shares[0]) + [1] * len(shares[1]), shares[0] + shares[1]) > 0.9


def test_create_archive_when_texture_shows_the_class_then_colour_does_not(archive):
    patches = archive.patches
    colour = np.array([[*p.mean(axis=(0, 1)), *p.std(axis=(0, 1))] for p in patches.values()])
    labels = np.array([name.label for name in patches])
    learns = np.array([int(name.case) <= 90000 + NUM_CASES // 2 for name in patches])
    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced"))
    model.fit(colour[learns], labels[learns])
    assert roc_auc_score(labels[~learns], model.decision_function(colour[~learns])) < 0.75


@pytest.mark.parametrize("difficulty", ["texture", "real"])
def test_create_archive_when_labels_are_null_then_only_labels_change(tmp_path, difficulty):
    size = {"num_cases": 3, "patches_per_case": 40, "seed": 5, "nested": False}
    for null in (False, True):
        create_archive(
            tmp_path / f"{null}.zip", ArchivePlan(difficulty=difficulty, null=null, **size)
        )
    assert read_pixels(tmp_path / "True.zip") == read_pixels(tmp_path / "False.zip")
    labels = [sorted(read_members(tmp_path / f"{null}.zip")) for null in (False, True)]
    assert labels[0] != labels[1]


# --- planted cues ---

CUED = {"num_cases": 3, "patches_per_case": 60, "seed": 5, "nested": False}


@pytest.mark.parametrize("difficulty", ["texture", "real"])
def test_create_archive_when_masks_are_wanted_then_its_bytes_stay_the_same(tmp_path, difficulty):
    create_archive(tmp_path / "without.zip", ArchivePlan(difficulty=difficulty, **CUED))
    create_archive(
        tmp_path / "with.zip", ArchivePlan(difficulty=difficulty, **CUED), masks=tmp_path / "masks"
    )
    assert (tmp_path / "with.zip").read_bytes() == (tmp_path / "without.zip").read_bytes()


def test_create_archive_when_no_patch_shall_carry_the_cue_then_its_bytes_stay_the_same(tmp_path):
    create_archive(tmp_path / "without.zip", ArchivePlan(**CUED))
    create_archive(tmp_path / "with.zip", ArchivePlan(shortcut=Shortcut("ink", 0.0, 0.0), **CUED))
    assert (tmp_path / "with.zip").read_bytes() == (tmp_path / "without.zip").read_bytes()


@pytest.mark.parametrize("cue", ["stain", "pad", "ink"])
def test_create_archive_when_a_cue_is_planted_then_pixels_change_where_its_mask_says(tmp_path, cue):
    masks = tmp_path / "masks"
    create_archive(tmp_path / "without.zip", ArchivePlan(**CUED))
    create_archive(tmp_path / "with.zip", ArchivePlan(shortcut=Shortcut(cue), **CUED), masks=masks)
    before, after = read_members(tmp_path / "without.zip"), read_members(tmp_path / "with.zip")
    assert before.keys() == after.keys()
    num_cued = 0
    for member, png in before.items():
        name = parse(Path(member).name)
        file = masks / CUE / name.case / str(name)
        if not file.exists():
            assert after[member] == png
            continue
        num_cued += 1
        mask = decode(file.read_bytes()) > 0
        changed = (decode(after[member]) != decode(png)).any(axis=2)
        assert not changed[~mask].any()
        assert changed[mask].mean() > 0.9
        assert 0.05 < mask.mean() < 0.25
    assert num_cued == len(list((masks / CUE).rglob("*.png")))


def test_create_archive_when_a_cue_is_planted_then_the_shares_hold_by_label(tmp_path):
    masks = tmp_path / "masks"
    shortcut = Shortcut("pad", share_negative=0.2, share_positive=0.7)
    size = {"num_cases": 6, "patches_per_case": 150, "seed": 5, "nested": False}
    create_archive(tmp_path / "a.zip", ArchivePlan(shortcut=shortcut, **size), masks=masks)
    counts = {
        of: Counter(parse(file.name).label for file in (masks / of).rglob("*.png"))
        for of in (NESTS, CUE)
    }
    assert counts[CUE][0] / counts[NESTS][0] == pytest.approx(0.2, abs=0.05)
    assert counts[CUE][1] / counts[NESTS][1] == pytest.approx(0.7, abs=0.08)


def test_create_archive_when_a_cue_is_planted_then_slivers_carry_none(tmp_path):
    masks = tmp_path / "masks"
    create_archive(
        tmp_path / "a.zip", ArchivePlan(shortcut=Shortcut("pad", 1.0, 1.0), **CUED), masks=masks
    )
    shapes = {
        parse(Path(member).name): decode(png).shape
        for member, png in read_members(tmp_path / "a.zip").items()
    }
    cued = {parse(file.name) for file in (masks / CUE).rglob("*.png")}
    assert cued == {name for name, shape in shapes.items() if shape == (50, 50, 3)}
    assert len(cued) < len(shapes)


def test_create_archive_when_the_folder_for_masks_holds_something_then_it_stays_as_it_was(tmp_path):
    note = tmp_path / "masks/note.txt"
    note.parent.mkdir()
    note.write_text("mine")
    with pytest.raises(InputError, match="is not an empty folder"):
        create_archive(tmp_path / "a.zip", ArchivePlan(**CUED), masks=note.parent)
    assert note.read_text() == "mine"
    assert not (tmp_path / "a.zip").exists()


# --- wrong input ---


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"num_cases": 0}, "--cases 0: at least 1 is needed"),
        ({"patches_per_case": 3}, "--patches-per-case 3: at least 4 are needed"),
        (
            {"num_cases": 3, "patches_per_case": None, "num_patches": 11},
            "--patches 11: 3 cases need at least 12",
        ),
        ({"num_patches": 4}, "give either --patches-per-case or --patches"),
        ({"patches_per_case": None}, "give either --patches-per-case or --patches"),
        ({"seed": -1}, "--seed -1: at least 0 is needed"),
        ({"difficulty": "hard"}, "--difficulty hard: choose texture or real"),
        ({"shortcut": Shortcut("hair")}, "--shortcut hair: choose one of stain, pad, ink"),
        ({"shortcut": Shortcut("ink", 0.1, 1.5)}, "--cue-share-positive 1.5: it must be between"),
    ],
)
def test_create_archive_when_an_argument_is_wrong_then_names_it_and_writes_nothing(
    tmp_path, bad, message
):
    arguments = {"num_cases": 1, "patches_per_case": 4, "seed": 0} | bad
    with pytest.raises(InputError, match=message):
        create_archive(tmp_path / "a.zip", ArchivePlan(**arguments))
    assert list(tmp_path.iterdir()) == []
