import pytest
import torch

from idc.core.errors import InputError
from idc.training.checkpoint import Checkpoint, digest_inputs


@pytest.fixture
def checkpoint(tmp_path):
    return Checkpoint(tmp_path / "checkpoints" / "abc")


def test_load_when_nothing_was_saved_then_returns_none(checkpoint):
    assert checkpoint.load() is None


def save(checkpoint, *steps):
    for step in steps:
        checkpoint.save(
            {"weights": torch.full((100,), float(step)), "history": [{"epoch": 1}]}, step
        )


def test_load_when_saved_twice_then_returns_the_last(checkpoint):
    save(checkpoint, 1, 2)
    state = checkpoint.load()
    assert (state["weights"][0].item(), state["history"]) == (2.0, [{"epoch": 1}])


def test_save_when_three_are_kept_then_drops_the_first(checkpoint):
    save(checkpoint, 9, 10, 11)
    assert sorted(path.name for path in checkpoint.folder.iterdir()) == [
        "000000010.pt", "000000010.sha256", "000000011.pt", "000000011.sha256",
    ]  # fmt: skip


def truncate(path):
    path.write_bytes(path.read_bytes()[:200])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def drop_the_digest(path):
    path.with_suffix(".sha256").unlink()


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, drop_the_digest])
def test_load_when_the_last_is_damaged_then_says_so_and_takes_the_one_before(
    checkpoint, damage, caplog
):
    save(checkpoint, 1, 2)
    damage(checkpoint.folder / "000000002.pt")
    assert checkpoint.load()["weights"][0].item() == 1.0
    assert "000000002.pt is damaged" in caplog.text


def test_load_when_all_are_damaged_then_starts_over(checkpoint):
    save(checkpoint, 1, 2)
    for path in checkpoint.folder.glob("*.pt"):
        truncate(path)
    assert checkpoint.load() is None


def test_is_due_when_the_interval_has_not_passed_then_waits(tmp_path):
    patient, eager = (Checkpoint(tmp_path / "a", interval_s=s) for s in (1000.0, 0.0))
    assert (patient.is_due(), eager.is_due()) == (False, True)


def test_remove_when_saved_then_forgets_it(checkpoint):
    save(checkpoint, 1)
    checkpoint.remove()
    assert (checkpoint.load(), checkpoint.exists()) == (None, False)


def test_locked_when_another_holds_it_then_names_the_lock(checkpoint, tmp_path):
    other = Checkpoint(tmp_path / "checkpoints" / "abc")
    with (
        checkpoint.locked(),
        pytest.raises(InputError, match=r"abc\.lock: wait for it"),
        other.locked(),
    ):
        pass


def test_locked_when_released_then_can_be_taken_again(checkpoint, tmp_path):
    with checkpoint.locked():
        pass
    with Checkpoint(tmp_path / "checkpoints" / "abc").locked():
        assert (tmp_path / "checkpoints/abc.lock").exists()


def test_digest_inputs_when_a_fact_or_a_file_changes_then_changes(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("1")
    before = digest_inputs({"seed": 1}, {"a": file})
    other_fact = digest_inputs({"seed": 2}, {"a": file})
    file.write_text("2")
    assert len({before, other_fact, digest_inputs({"seed": 1}, {"a": file})}) == 3


def test_digest_inputs_when_given_in_another_order_then_stays_the_same(tmp_path):
    files = {name: tmp_path / name for name in "ab"}
    for name, path in files.items():
        path.write_text(name)
    turned = dict(reversed(files.items()))
    assert digest_inputs({"x": 1, "y": 2}, files) == digest_inputs({"y": 2, "x": 1}, turned)
