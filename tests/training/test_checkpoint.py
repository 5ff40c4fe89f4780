import pytest
import torch

from idc.errors import InputError
from idc.training.checkpoint import Checkpoint, digest_inputs


@pytest.fixture
def checkpoint(tmp_path):
    return Checkpoint(tmp_path / "checkpoints" / "abc")


def test_load_when_nothing_was_saved_then_returns_none(checkpoint):
    assert checkpoint.load() is None


def test_load_when_saved_twice_then_returns_the_last(checkpoint):
    for value in (1.0, 2.0):
        checkpoint.save({"weights": torch.tensor([value]), "history": [{"epoch": int(value)}]})
    state = checkpoint.load()
    assert (state["weights"].item(), state["history"]) == (2.0, [{"epoch": 2}])


def test_load_when_the_file_is_truncated_then_starts_over(checkpoint, tmp_path):
    checkpoint.save({"weights": torch.zeros(100)})
    path = tmp_path / "checkpoints/abc/epoch.pt"
    path.write_bytes(path.read_bytes()[:200])
    assert checkpoint.load() is None


def test_remove_when_saved_then_forgets_it(checkpoint):
    checkpoint.save({"weights": torch.zeros(1)})
    checkpoint.remove()
    assert checkpoint.load() is None


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
