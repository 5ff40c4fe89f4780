import os

from idc.core.disk import disk_usage, freed_bytes


def test_sizes_when_a_file_has_several_names_then_it_counts_once_and_is_freed_with_the_last(
    tmp_path,
):
    for name in ("cache", "workspace"):
        (tmp_path / name / "deep").mkdir(parents=True)
    shared, own = tmp_path / "cache/deep/shared", tmp_path / "workspace/deep/own"
    shared.write_bytes(b"x" * 100_000)
    own.write_bytes(b"x" * 8_000)
    os.link(shared, tmp_path / "workspace/link")
    link = tmp_path / "workspace/symlink"
    link.symlink_to(shared)
    cache, workspace = tmp_path / "cache", tmp_path / "workspace"
    alone = disk_usage(own, link)

    assert disk_usage(cache) >= 100_000
    assert disk_usage(cache, workspace) == disk_usage(cache) + alone
    assert freed_bytes([workspace]) == alone < 100_000
    assert freed_bytes([cache]) == 0
    assert freed_bytes([cache, workspace]) == disk_usage(cache, workspace)
    assert freed_bytes([shared, tmp_path / "gone"]) == 0
