import hashlib
import os
import zipfile

import cv2
import numpy as np
import pytest

from idc.core.errors import InputError
from idc.data.ingest import chunks, pixel_store
from idc.data.ingest.archive import list_members
from idc.data.ingest.decoding import decode_patch
from idc.data.ingest.pixel_store import reject_unreadable, size_of_store, store_patches
from idc.data.tables import INDEX_SCHEMA

HEADER_BYTES = 128


def make_pixels(seed, height=50, width=50):
    return np.random.default_rng(seed).integers(0, 200, (height, width, 3), dtype=np.uint8)


def encode(pixels, suffix=".png"):
    return cv2.imencode(suffix, pixels[..., ::-1])[1].tobytes()


def member(x=1, label=0, case="8863", suffix="png"):
    return f"{case}/{label}/{case}_idx5_x{x}_y1_class{label}.{suffix}"


def write_zip(path, members):
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


@pytest.fixture
def store(tmp_path):
    """`store(path)`: what `store_patches` returns, and the pixels it wrote."""

    def run(source, num_processes=1):
        path = tmp_path / f"pixels{num_processes}.npy"
        stored = store_patches(list_members([source]), path, num_processes=num_processes)
        return stored, np.load(path)

    return run


@pytest.fixture
def store_one(tmp_path, store):
    """`store_one(pixels)`: the index row and the stored pixels of an archive of one patch."""

    def run(pixels):
        stored, kept = store(write_zip(tmp_path / "one.zip", {member(): encode(pixels)}))
        return stored.index.iloc[0], kept[0]

    return run


@pytest.fixture
def small_zip(tmp_path):
    members = {member(x=50 * i + 1, label=i % 2): encode(make_pixels(i)) for i in range(12)}
    return write_zip(tmp_path / "small.zip", members)


@pytest.fixture
def gappy_zip(tmp_path):
    """12 patches; unreadable are the first, all of the second three, one later and the last."""
    members = {
        member(x=50 * i + 1): b"no picture" if i in GAPS else encode(make_pixels(i))
        for i in range(12)
    }
    return write_zip(tmp_path / "gappy.zip", members)


GAPS = (0, 3, 4, 5, 7, 11)
KEPT = [i for i in range(12) if i not in GAPS]


@pytest.fixture
def chunks_of_three(monkeypatch):
    # the parent cuts the chunks: processes need not know
    monkeypatch.setattr(pixel_store, "PATCHES_PER_CHUNK", 3)


# --- pixels and index ---


def test_store_patches_when_read_from_a_zip_then_keeps_rgb_pixels_exactly(small_zip, store):
    _, pixels = store(small_zip)
    np.testing.assert_array_equal(pixels, [make_pixels(i) for i in range(12)])


def test_store_patches_when_read_from_a_folder_then_equals_the_zip(small_zip, tmp_path, store):
    folder = tmp_path / "folder"
    zipfile.ZipFile(small_zip).extractall(folder)
    from_zip, zip_pixels = store(small_zip)
    from_folder, folder_pixels = store(folder)
    np.testing.assert_array_equal(folder_pixels, zip_pixels)
    assert from_folder.index.equals(from_zip.index)


def test_store_patches_when_done_then_the_index_keeps_its_schema(small_zip, store):
    stored, _ = store(small_zip)
    INDEX_SCHEMA.validate(stored.index)


def test_store_patches_when_done_then_rows_say_place_label_and_digest_of_their_pixels(
    small_zip, store
):
    stored, pixels = store(small_zip)
    assert stored.index["x"].tolist() == [50 * i + 1 for i in range(12)]
    assert stored.index["label"].tolist() == [0, 1] * 6
    assert stored.index["sha256"].tolist() == [
        hashlib.sha256(patch.tobytes()).hexdigest() for patch in pixels
    ]


def test_store_patches_when_formats_differ_then_counts_them(tmp_path, store):
    grey = np.zeros((50, 50, 1), np.uint8)
    deep = np.zeros((50, 50, 3), np.uint16)
    members = {
        member(x=1): encode(make_pixels(0)),
        member(x=2): encode(make_pixels(1)),
        member(x=3): encode(grey),
        member(x=4): encode(deep),
        member(x=5, suffix="jpg"): encode(make_pixels(2), ".jpg"),
        member(x=6): encode(make_pixels(3), ".jpg"),  # a PNG by its name only
        member(x=7): b"no picture",
    }
    stored, _ = store(write_zip(tmp_path / "a.zip", members))
    assert stored.formats == {
        "16-bit RGB PNG": 1,
        "8-bit RGB JPEG": 2,
        "8-bit RGB PNG": 2,
        "8-bit greyscale PNG": 1,
    }


def test_size_of_store_when_asked_then_is_that_of_the_file_but_for_its_header(small_zip, tmp_path):
    path = tmp_path / "pixels.npy"
    store_patches(list_members([small_zip]), path, num_processes=1)
    assert path.stat().st_size == HEADER_BYTES + size_of_store(12)


# --- slivers ---


@pytest.mark.parametrize(("height", "width"), [(50, 7), (13, 50), (49, 49), (1, 1)])
def test_store_patches_when_a_patch_is_a_sliver_then_flags_it_and_keeps_its_size(
    store_one, height, width
):
    row, _ = store_one(make_pixels(0, height, width))
    assert (row["height_px"], row["width_px"], row["sliver"]) == (height, width, True)


def test_store_patches_when_a_patch_is_whole_then_it_is_no_sliver(store_one):
    assert not store_one(make_pixels(0))[0]["sliver"]


def test_store_patches_when_a_patch_is_a_sliver_then_pads_it_by_reflection(store_one):
    original = make_pixels(0, width=30)
    _, pixels = store_one(original)
    np.testing.assert_array_equal(pixels[:, :30], original)
    np.testing.assert_array_equal(pixels[:, 30:], original[:, :9:-1])


def test_store_patches_when_a_patch_is_a_sliver_then_digests_the_pixels_before_padding(store_one):
    original = make_pixels(0, width=7)
    row, _ = store_one(original)
    assert row["sha256"] == hashlib.sha256(original.tobytes()).hexdigest()


@pytest.mark.parametrize(("width", "out_of_focus"), [(50, True), (49, False)])
def test_store_patches_when_a_sliver_is_blurred_then_its_focus_is_not_judged(
    store_one, width, out_of_focus
):
    flat = np.full((50, width, 3), (200, 140, 180), np.uint8)
    assert store_one(flat)[0]["out_of_focus"] == out_of_focus


def test_store_patches_when_a_sliver_is_white_then_that_is_judged(store_one):
    assert store_one(np.full((50, 7, 3), 250, np.uint8))[0]["blank"]


# --- unreadable patches ---


@pytest.mark.parametrize("num_processes", [1, 2])
@pytest.mark.usefixtures("chunks_of_three")
def test_store_patches_when_several_chunks_have_gaps_then_closes_them(
    gappy_zip, store, num_processes
):
    stored, pixels = store(gappy_zip, num_processes)
    np.testing.assert_array_equal(pixels, [make_pixels(i) for i in KEPT])
    assert stored.index["x"].tolist() == [50 * i + 1 for i in KEPT]


def test_store_patches_when_gaps_are_closed_then_the_file_ends_with_the_last_patch(
    gappy_zip, tmp_path
):
    path = tmp_path / "pixels.npy"
    store_patches(list_members([gappy_zip]), path, num_processes=1)
    assert path.stat().st_size == HEADER_BYTES + size_of_store(len(KEPT))


@pytest.mark.usefixtures("chunks_of_three")
def test_store_patches_when_some_are_unreadable_then_lists_each_with_its_reason(gappy_zip, store):
    stored, _ = store(gappy_zip)
    assert stored.unreadable == [
        {"patch": f"gappy.zip:{member(x=50 * i + 1)}", "reason": "is neither PNG nor JPEG"}
        for i in GAPS
    ]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (encode(make_pixels(0))[:1000], "ends in the middle"),
        (encode(make_pixels(0, width=51)), "is 51x50 px, a patch has at most 50 a side"),
    ],
)
def test_store_patches_when_one_is_unreadable_then_says_why(tmp_path, store, content, reason):
    members = {member(): encode(make_pixels(0)), member(x=51): content}
    stored, _ = store(write_zip(tmp_path / "a.zip", members))
    assert stored.unreadable == [{"patch": f"a.zip:{member(x=51)}", "reason": reason}]


def test_store_patches_when_a_members_checksum_is_wrong_then_leaves_it_out(tmp_path, store):
    members = {member(): encode(make_pixels(0)), member(x=51): b"A" * 40}
    path = write_zip(tmp_path / "a.zip", members)
    path.write_bytes(path.read_bytes().replace(b"A" * 40, b"B" * 40))
    stored, _ = store(path)
    assert [entry["reason"] for entry in stored.unreadable] == [
        "is damaged in the archive (checksum)"
    ]


def test_store_patches_when_nothing_decodes_then_names_the_first_and_why(tmp_path, store):
    path = write_zip(tmp_path / "a.zip", {member(): b"", member(x=51): b"text"})
    with pytest.raises(InputError, match=rf"none of 2 patches .* a\.zip:{member()}: is empty"):
        store(path)


# --- processes ---


@pytest.mark.parametrize("source", ["small_zip", "gappy_zip"])
@pytest.mark.usefixtures("chunks_of_three")
def test_store_patches_when_two_processes_decode_then_all_is_equal(
    source, request, store, tmp_path
):
    path = request.getfixturevalue(source)
    alone, _ = store(path, num_processes=1)
    shared, _ = store(path, num_processes=2)
    files = [(tmp_path / f"pixels{num}.npy").read_bytes() for num in (1, 2)]
    assert files[0] == files[1]
    assert shared.index.equals(alone.index)
    assert (shared.unreadable, shared.formats) == (alone.unreadable, alone.formats)


def test_store_patches_when_chunks_are_cut_elsewhere_then_all_is_equal(
    gappy_zip, store, monkeypatch
):
    whole, whole_pixels = store(gappy_zip)
    monkeypatch.setattr(pixel_store, "PATCHES_PER_CHUNK", 5)
    cut, cut_pixels = store(gappy_zip)
    np.testing.assert_array_equal(cut_pixels, whole_pixels)
    assert cut.index.equals(whole.index)


# --- a source that changes ---


def test_store_patches_when_the_zip_is_written_anew_after_listing_then_notices(small_zip, tmp_path):
    listing = list_members([small_zip])
    state = small_zip.stat()
    write_zip(small_zip, {member(x=50 * i + 1): encode(make_pixels(i)) for i in range(13)})
    os.utime(small_zip, ns=(state.st_atime_ns, state.st_mtime_ns))
    with pytest.raises(InputError, match=r"small\.zip was changed while it was read"):
        store_patches(listing, tmp_path / "pixels.npy", num_processes=1)


def test_store_patches_when_the_zip_is_touched_during_the_reading_then_notices(
    small_zip, tmp_path, monkeypatch
):
    decode = decode_patch

    def decode_and_touch(content):
        os.utime(small_zip, ns=(0, 0))
        return decode(content)

    monkeypatch.setattr(chunks, "decode_patch", decode_and_touch)
    with pytest.raises(InputError, match=r"small\.zip was changed while it was read"):
        store_patches(list_members([small_zip]), tmp_path / "pixels.npy", num_processes=1)


def test_store_patches_when_a_folder_loses_a_patch_after_listing_then_notices(tmp_path):
    folder = tmp_path / "raw"
    for x in (1, 51):
        (folder / member(x)).parent.mkdir(parents=True, exist_ok=True)
        (folder / member(x)).write_bytes(encode(make_pixels(x)))
    listing = list_members([folder])
    (folder / member(51)).unlink()
    with pytest.raises(InputError, match="raw was changed while it was read"):
        store_patches(listing, tmp_path / "pixels.npy", num_processes=1)


def test_reject_unreadable_when_one_of_the_first_can_be_read_then_no_other_is_decoded(
    tmp_path, monkeypatch
):
    decoded = []

    def decode_and_note(content):
        decoded.append(content)
        return decode_patch(content)

    monkeypatch.setattr(pixel_store, "decode_patch", decode_and_note)
    contents = [b"no picture", *(encode(make_pixels(seed)) for seed in (1, 2))]
    patches = {member(x=x): content for x, content in enumerate(contents)}
    listing = list_members([write_zip(tmp_path / "a.zip", patches)])
    reject_unreadable(listing, 3)
    assert decoded == contents[:2]
    with pytest.raises(InputError, match=r"x0_y1_class0.png: none of the first 1 patches"):
        reject_unreadable(listing, 1)
