import zipfile

import cv2
import numpy as np
import pytest

from idc.data import archive as archive_module
from idc.data.archive import (
    decode_image,
    find_sources,
    list_members,
    pad_to_patch,
    store_patches,
)
from idc.data.patches import PatchName
from idc.errors import InputError

INDEX_COLUMNS = [
    "case", "x", "y", "label", "height_px", "width_px", "sha256", "sliver", "near_blank", "blank",
]  # fmt: skip


def make_pixels(seed, height=50, width=50):
    return np.random.default_rng(seed).integers(0, 200, (height, width, 3), dtype=np.uint8)


def encode(pixels):
    return cv2.imencode(".png", pixels[..., ::-1])[1].tobytes()


def write_zip(path, members):
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def member(case="8863", x=1, y=1, label=0, folder=None):
    folder = label if folder is None else folder
    return f"{case}/{folder}/{case}_idx5_x{x}_y{y}_class{label}.png"


@pytest.fixture
def small_zip(tmp_path):
    members = {member(x=50 * i + 1, label=i % 2): encode(make_pixels(i)) for i in range(12)}
    return write_zip(tmp_path / "small.zip", members)


def store(source, tmp_path, num_workers=0):
    path = tmp_path / f"pixels{num_workers}.npy"
    index, unreadable = store_patches(list_members([source]), path, num_workers=num_workers)
    return index, unreadable, np.load(path)


def test_find_sources_when_raw_is_empty_then_says_what_to_download(tmp_path):
    with pytest.raises(InputError, match="holds no archive"):
        find_sources(tmp_path)


def test_find_sources_when_there_are_zips_and_folders_then_returns_both(small_zip, tmp_path):
    (tmp_path / "8863").mkdir()
    assert find_sources(tmp_path) == (small_zip, tmp_path)


def test_list_members_when_the_zip_is_truncated_then_names_it(small_zip):
    small_zip.write_bytes(small_zip.read_bytes()[:300])
    with pytest.raises(InputError, match=r"small\.zip is not a readable zip"):
        list_members([small_zip])


def test_list_members_when_there_is_no_patch_then_refuses(tmp_path):
    with pytest.raises(InputError, match="hold no patch"):
        list_members([write_zip(tmp_path / "a.zip", {"readme.txt": b"hello"})])


def test_list_members_when_a_name_is_off_the_grammar_then_names_the_member(tmp_path):
    path = write_zip(tmp_path / "a.zip", {"8863/0/8863_x1_y1.png": b""})
    with pytest.raises(InputError, match=r"a\.zip:8863/0/8863_x1_y1\.png.*is not named"):
        list_members([path])


def test_list_members_when_folder_contradicts_name_then_names_both_labels(tmp_path):
    path = write_zip(tmp_path / "a.zip", {member(label=1, folder=0): b""})
    with pytest.raises(InputError, match="folder says label 0, name says 1"):
        list_members([path])


def test_list_members_when_one_place_has_two_labels_then_names_the_place(tmp_path):
    path = write_zip(tmp_path / "a.zip", {member(label=0): b"", member(label=1): b""})
    with pytest.raises(InputError, match=r"carry two labels \(8863 x1 y1\)"):
        list_members([path])


def test_list_members_when_a_tree_is_nested_then_keeps_the_shallow_copy(tmp_path):
    path = write_zip(tmp_path / "a.zip", {f"IDC_regular/{member()}": b"", member(): b""})
    listing = list_members([path])
    assert ([m.path for m in listing.members], listing.num_copies) == ([member()], 1)


def test_list_members_when_a_patch_is_in_two_archives_then_counts_it_once(tmp_path):
    sources = [write_zip(tmp_path / f"{name}.zip", {member(): b""}) for name in "ba"]
    listing = list_members(sources)
    assert [m.source.name for m in listing.members] == ["a.zip"]


def test_list_members_when_members_are_shuffled_then_sorts_by_place_as_number(tmp_path):
    path = write_zip(tmp_path / "a.zip", {member(x=x): b"" for x in (1001, 51, 151)})
    assert [m.name.x for m in list_members([path]).members] == [51, 151, 1001]


def test_list_members_when_a_mac_left_its_files_then_passes_them_over(tmp_path):
    path = write_zip(tmp_path / "a.zip", {f"__MACOSX/{member()}": b"", member(x=51): b""})
    assert [m.name for m in list_members([path]).members] == [PatchName("8863", 51, 1, 0)]


def test_store_patches_when_read_from_a_zip_then_keeps_rgb_pixels_exactly(small_zip, tmp_path):
    _, _, pixels = store(small_zip, tmp_path)
    np.testing.assert_array_equal(pixels, [make_pixels(i) for i in range(12)])


def test_store_patches_when_read_from_a_folder_then_equals_the_zip(small_zip, tmp_path):
    folder = tmp_path / "folder"
    zipfile.ZipFile(small_zip).extractall(folder)
    from_zip, _, zip_pixels = store(small_zip, tmp_path)
    from_folder, _, folder_pixels = store(folder, tmp_path)
    np.testing.assert_array_equal(folder_pixels, zip_pixels)
    assert from_folder.equals(from_zip)


def test_store_patches_when_done_then_the_index_has_the_documented_columns(small_zip, tmp_path):
    index, _, _ = store(small_zip, tmp_path)
    assert list(index.columns) == INDEX_COLUMNS


def test_store_patches_when_one_is_unreadable_then_leaves_it_out_and_names_it(tmp_path):
    path = write_zip(
        tmp_path / "a.zip",
        {
            member(x=1): encode(make_pixels(0)),
            member(x=51): b"no image",
            member(x=101): encode(make_pixels(2)),
        },
    )
    index, unreadable, pixels = store(path, tmp_path)
    assert unreadable == [f"a.zip:{member(x=51)}"]
    assert list(index["x"]) == [1, 101]
    np.testing.assert_array_equal(pixels, [make_pixels(0), make_pixels(2)])


def test_store_patches_when_one_is_larger_than_a_patch_then_counts_it_unreadable(tmp_path):
    path = write_zip(
        tmp_path / "a.zip",
        {member(): encode(make_pixels(0)), member(x=51): encode(make_pixels(1, width=51))},
    )
    assert store(path, tmp_path)[1] == [f"a.zip:{member(x=51)}"]


def test_store_patches_when_a_members_checksum_is_wrong_then_counts_it_unreadable(tmp_path):
    path = write_zip(
        tmp_path / "a.zip", {member(x=1): encode(make_pixels(0)), member(x=51): b"A" * 40}
    )
    path.write_bytes(path.read_bytes().replace(b"A" * 40, b"B" * 40))
    assert store(path, tmp_path)[1] == [f"a.zip:{member(x=51)}"]


def test_store_patches_when_nothing_decodes_then_refuses(tmp_path):
    path = write_zip(tmp_path / "a.zip", {member(): b""})
    with pytest.raises(InputError, match="none of 1 patches decodes"):
        store(path, tmp_path)


def test_store_patches_when_a_patch_is_a_sliver_then_flags_it_with_its_size(tmp_path):
    path = write_zip(tmp_path / "a.zip", {member(): encode(make_pixels(0, width=7))})
    index, _, pixels = store(path, tmp_path)
    assert index.loc[0, ["height_px", "width_px", "sliver"]].tolist() == [50, 7, True]
    np.testing.assert_array_equal(pixels[0, :, 7:14], make_pixels(0, width=7)[:, ::-1])


@pytest.mark.parametrize(
    ("white_rows", "near_blank", "blank"), [(37, False, False), (38, True, False), (46, True, True)]
)
def test_store_patches_when_rows_are_white_then_flags_by_their_share(
    tmp_path, white_rows, near_blank, blank
):
    pixels = make_pixels(0)
    pixels[:white_rows] = 250
    path = write_zip(tmp_path / "a.zip", {member(): encode(pixels)})
    index, _, _ = store(path, tmp_path)
    assert index.loc[0, ["near_blank", "blank"]].tolist() == [near_blank, blank]


def test_store_patches_when_two_workers_decode_then_equals_none(small_zip, tmp_path, monkeypatch):
    monkeypatch.setattr(archive_module, "_PATCHES_PER_CHUNK", 3)
    alone, _, alone_pixels = store(small_zip, tmp_path, num_workers=0)
    shared, _, shared_pixels = store(small_zip, tmp_path, num_workers=2)
    np.testing.assert_array_equal(shared_pixels, alone_pixels)
    assert shared.equals(alone)


@pytest.mark.parametrize(("height", "width"), [(50, 1), (1, 50), (13, 20), (50, 50)])
def test_pad_to_patch_when_smaller_then_keeps_the_corner_and_fills_from_it(height, width):
    pixels = make_pixels(0, height, width)
    padded = pad_to_patch(pixels)
    assert padded.shape == (50, 50, 3)
    np.testing.assert_array_equal(padded[:height, :width], pixels)
    assert {*padded.reshape(-1)} == {*pixels.reshape(-1)}


def test_pad_to_patch_when_too_large_then_refuses():
    with pytest.raises(InputError, match="not 60x50"):
        pad_to_patch(make_pixels(0, 50, 60))


@pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\n"])
def test_decode_image_when_it_is_none_then_returns_none(content):
    assert decode_image(content) is None
