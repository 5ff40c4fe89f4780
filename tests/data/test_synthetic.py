import zipfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from idc.data.patches import PATCH_SIZE_PX, PatchName, parse_patch_name
from idc.data.synthetic import NESTED_FOLDER, create_archive
from idc.errors import InputError

NUM_CASES = 24
PATCHES_PER_CASE = 50


@dataclass(frozen=True)
class Archive:
    path: Path
    masks: Path
    members: dict[str, bytes]

    @property
    def patches(self) -> dict[PatchName, np.ndarray]:
        return {
            parse_patch_name(Path(member).name): _decode(png)
            for member, png in self.members.items()
            if not member.startswith(NESTED_FOLDER)
        }


def _decode(png: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(png, dtype=np.uint8), cv2.IMREAD_UNCHANGED)


def _read_members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    folder = tmp_path_factory.mktemp("synthetic")
    path, masks = folder / "archive.zip", folder / "masks"
    create_archive(
        path, num_cases=NUM_CASES, patches_per_case=PATCHES_PER_CASE, seed=7, masks=masks
    )
    return Archive(path, masks, _read_members(path))


def test_members_follow_the_published_layout(archive):
    for member in archive.members:
        case, label, name = member.removeprefix(f"{NESTED_FOLDER}/").split("/")
        parsed = parse_patch_name(name)
        assert (parsed.case, str(parsed.label)) == (case, label)
        assert parsed.x % PATCH_SIZE_PX == parsed.y % PATCH_SIZE_PX == 1
    cases = {name.case for name in archive.patches}
    assert cases == {str(90001 + index) for index in range(NUM_CASES)}


def test_every_patch_has_a_nested_copy_with_the_same_bytes(archive):
    top = {m: png for m, png in archive.members.items() if not m.startswith(NESTED_FOLDER)}
    assert len(archive.members) == 2 * len(top)
    assert all(archive.members[f"{NESTED_FOLDER}/{m}"] == png for m, png in top.items())


def test_without_nesting_there_are_no_copies(tmp_path):
    create_archive(tmp_path / "a.zip", num_cases=1, patches_per_case=4, seed=0, nested=False)
    assert not any(m.startswith(NESTED_FOLDER) for m in _read_members(tmp_path / "a.zip"))


def test_the_seed_decides_the_bytes(tmp_path):
    written = []
    for name, seed in (("first", 1), ("again", 1), ("other", 2)):
        create_archive(tmp_path / name, num_cases=2, patches_per_case=6, seed=seed)
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]
    assert written[0] != written[2]


def test_a_case_is_the_same_in_a_longer_archive(tmp_path):
    for num_cases in (2, 3):
        path = tmp_path / f"{num_cases}.zip"
        create_archive(path, num_cases=num_cases, patches_per_case=6, seed=1)
    short, long = _read_members(tmp_path / "2.zip"), _read_members(tmp_path / "3.zip")
    assert short.items() < long.items()


def test_both_classes_occur_and_cases_vary_in_number_of_patches(archive):
    labels: dict[str, list[int]] = {}
    for name in archive.patches:
        labels.setdefault(name.case, []).append(name.label)
    assert {label for of_case in labels.values() for label in of_case} == {0, 1}
    counts = [len(of_case) for of_case in labels.values()]
    assert min(counts) >= 0.5 * PATCHES_PER_CASE
    assert max(counts) <= 1.6 * PATCHES_PER_CASE
    assert len(set(counts)) > NUM_CASES / 3


def test_touching_neighbours_mostly_share_their_label(archive):
    labels = {(name.case, name.x, name.y): name.label for name in archive.patches}
    same = [
        label == labels[neighbour]
        for (case, x, y), label in labels.items()
        for neighbour in ((case, x + PATCH_SIZE_PX, y), (case, x, y + PATCH_SIZE_PX))
        if neighbour in labels
    ]
    assert np.mean(same) > 0.8


def test_few_patches_are_slivers_and_those_lie_at_the_right_or_bottom_edge(archive):
    shapes = {name: pixels.shape for name, pixels in archive.patches.items()}
    slivers = [n for n, s in shapes.items() if s[:2] != (PATCH_SIZE_PX, PATCH_SIZE_PX)]
    assert 0.005 < len(slivers) / len(shapes) < 0.03
    assert np.mean([name.label for name in slivers]) < 0.3
    for sliver in slivers:
        axis = "x" if shapes[sliver][1] < PATCH_SIZE_PX else "y"
        of_case = [getattr(name, axis) for name in shapes if name.case == sliver.case]
        assert getattr(sliver, axis) == max(of_case)


def test_the_smallest_archive_of_four_cases_has_two_slivers(tmp_path):
    create_archive(tmp_path / "a.zip", num_cases=4, patches_per_case=4, seed=0, nested=False)
    shapes = [_decode(png).shape for png in _read_members(tmp_path / "a.zip").values()]
    assert sum(shape != (PATCH_SIZE_PX, PATCH_SIZE_PX, 3) for shape in shapes) >= 2


def test_masks_fit_their_patches_and_agree_with_the_labels(archive):
    shares: dict[int, list[float]] = {0: [], 1: []}
    for name, pixels in archive.patches.items():
        mask = _decode((archive.masks / name.case / str(name)).read_bytes())
        assert mask.shape == pixels.shape[:2]
        assert set(np.unique(mask)) <= {0, 255}
        shares[name.label].append(float(np.mean(mask == 255)))
    assert len(list(archive.masks.rglob("*.png"))) == len(archive.patches)
    assert np.mean(shares[0]) < 0.1 < 0.3 < np.mean(shares[1])
    assert roc_auc_score([0] * len(shares[0]) + [1] * len(shares[1]), shares[0] + shares[1]) > 0.9


def test_colour_alone_does_not_give_the_label_away(archive):
    patches = archive.patches
    colour = np.array([[*p.mean(axis=(0, 1)), *p.std(axis=(0, 1))] for p in patches.values()])
    labels = np.array([name.label for name in patches])
    learns = np.array([int(name.case) <= 90000 + NUM_CASES // 2 for name in patches])
    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced"))
    model.fit(colour[learns], labels[learns])
    assert roc_auc_score(labels[~learns], model.decision_function(colour[~learns])) < 0.75


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"num_cases": 0}, "--cases 0: at least 1 is needed"),
        ({"patches_per_case": 3}, "--patches-per-case 3: at least 4 are needed"),
    ],
)
def test_a_number_out_of_range_is_named_and_nothing_is_written(tmp_path, bad, message):
    arguments = {"num_cases": 1, "patches_per_case": 4, "seed": 0} | bad
    with pytest.raises(InputError, match=message):
        create_archive(tmp_path / "a.zip", **arguments)
    assert list(tmp_path.iterdir()) == []
