import pandas as pd
import pytest
import torch

from idc.core.errors import InputError
from idc.core.files import load_json, save_json
from idc.models.bundle import load_model, save_bundle
from idc.models.spec import digest_bundle, load_history, load_spec
from tests.random_networks import random_fusion, tiny_spec

SPEC = tiny_spec(
    dropout=0.2,
    aux_heads=True,
    class_weights=[1.0, 1.5],
    num_training_patches=[6, 4],
    best_epoch=2,
    val_auroc=0.8125,
)
HISTORY = pd.DataFrame({"epoch": [1, 2], "val_auroc": [0.5, 0.8125]})


@pytest.fixture
def model():
    return random_fusion(["test_resnet"], dropout=0.2, aux_heads=True).eval()


@pytest.fixture
def folder(model, tmp_path):
    save_bundle(tmp_path / "fusion", model.state_dict(), SPEC, HISTORY, torch.arange(96.0))
    return tmp_path / "fusion"


@pytest.mark.parametrize("name", ["", "resnet_of_ours", "resnet18.foo"])
def test_load_model_when_timm_knows_no_such_network_then_names_the_spec(folder, name):
    spec = load_json(folder / "spec.json") | {"architectures": [{"name": name, "args": {}}]}
    save_json(folder / "spec.json", spec)
    (folder / "SHA256SUMS").unlink()
    with pytest.raises(InputError, match=r"spec\.json: model\.backbones: timm has no"):
        load_model(folder)


def test_load_spec_when_it_is_of_a_time_of_timms_names_alone_then_is_read(folder):
    spec = load_json(folder / "spec.json")
    for later in ("architectures", "starting_weights"):
        del spec[later]
    save_json(folder / "spec.json", spec)
    (folder / "SHA256SUMS").unlink()
    assert load_spec(folder) == SPEC
    load_model(folder)


def test_load_model_when_saved_then_gives_the_same_logits(model, folder):
    images = torch.rand(3, 3, 32, 32)
    torch.testing.assert_close(load_model(folder)[0](images), model(images))


def test_load_spec_when_saved_then_is_the_same(folder):
    assert load_spec(folder) == SPEC


def test_load_history_when_saved_then_is_the_same(folder):
    pd.testing.assert_frame_equal(load_history(folder), HISTORY)


def test_load_model_when_weights_are_truncated_then_names_the_file(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"model\.safetensors is not the file that SHA256SUMS"):
        load_model(folder)
    (folder / "SHA256SUMS").unlink()
    with pytest.raises(InputError, match=r"model\.safetensors does not hold this network"):
        load_model(folder)


def _record_stem_stride(folder, stride):
    (folder / "SHA256SUMS").unlink()  # of the time before there were any
    content = load_json(folder / "spec.json") | {"stem_stride": stride}
    save_json(folder / "spec.json", content)


def test_load_model_when_an_older_spec_records_the_usual_stem_stride_then_reads_it(folder, model):
    _record_stem_stride(folder, 2)
    assert load_spec(folder) == SPEC
    images = torch.rand(3, 3, 32, 32)
    torch.testing.assert_close(load_model(folder)[0](images), model(images))


def test_load_model_when_an_older_spec_records_another_stem_stride_then_says_what_to_do(folder):
    _record_stem_stride(folder, 1)
    with pytest.raises(InputError, match="with stem_stride 1, now it keeps its own of 2: retrain"):
        load_model(folder)


def test_load_spec_when_a_field_is_unknown_then_asks_to_retrain(folder):
    save_json(folder / "spec.json", load_json(folder / "spec.json") | {"width": 3})
    (folder / "SHA256SUMS").unlink()
    with pytest.raises(InputError, match=r"is of another version .*width.*: retrain"):
        load_spec(folder)


def test_digest_bundle_when_weights_change_then_changes(model, folder):
    before = digest_bundle(folder)
    with torch.no_grad():
        model.head[-1].bias += 1
    save_bundle(folder, model.state_dict(), SPEC, HISTORY, torch.arange(96.0))
    assert digest_bundle(folder) != before


def test_digest_bundle_when_there_is_no_model_then_says_how_to_make_it(tmp_path):
    with pytest.raises(InputError, match="run `dvc repro train`"):
        digest_bundle(tmp_path)
