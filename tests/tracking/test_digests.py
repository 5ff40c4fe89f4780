"""Files of a registered version against the digests that stand in the registry."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

import mlflow
import pytest

from idc.core.errors import InputError
from idc.tracking.connection import tracking_uri
from idc.tracking.publishing import publish_result
from idc.tracking.registry import Registry

pytestmark = pytest.mark.slow  # to make a store with its tables takes seconds

FILES = [
    "artifacts/fusion/model.safetensors",
    "artifacts/fusion/profile.safetensors",
    "artifacts/fusion/spec.json",
    "artifacts/fusion/history.csv",
    "artifacts/fusion/SHA256SUMS",
    "artifacts/point.json",
    "code/idc/evaluation/threshold/operating_point.py",
    "requirements.txt",
    "MLmodel",
    "SHA256SUMS",
]


@pytest.fixture(scope="module")
def published(tmp_path_factory, result):
    """A registered version: its registry, itself and the folder of its files."""
    root = tmp_path_factory.mktemp("root")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "")
        number = publish_result(result, root).model_version
        registry = Registry(root, result.params)
        source = mlflow.MlflowClient(tracking_uri(root), tracking_uri(root)).get_model_version(
            result.params.publish.model_name, number
        ).source  # fmt: skip
        return registry, registry.load(number), Path(unquote(urlsplit(source).path))


@pytest.fixture
def change(published):
    """Put other content into a file of the version; what was there comes back afterwards."""
    before = {}

    def put(name, content):
        path = published[2] / name
        before[path] = path.read_bytes()
        path.write_bytes(content)

    yield put
    for path, content in before.items():
        path.write_bytes(content)


def list_files(folder):
    return [
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    ]


def flipped(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def test_files_when_nothing_changed_then_gives_bundle_and_operating_point(published):
    registry, version, folder = published
    assert set(FILES) <= set(list_files(folder))
    listed = {line.split()[1] for line in (folder / "SHA256SUMS").read_text().splitlines()}
    assert listed == set(list_files(folder)) - {"SHA256SUMS"}
    with registry.files(version) as (bundle, point):
        assert point.read_bytes() == (folder / "artifacts/point.json").read_bytes()
        assert (bundle / "spec.json").is_file()


@pytest.mark.parametrize("name", FILES)
def test_files_when_a_bit_is_flipped_then_refuses_the_version_in_one_line(published, change, name):
    registry, version, folder = published
    change(name, flipped((folder / name).read_bytes()))
    with pytest.raises(InputError, match="it was damaged or exchanged") as refused:
        registry.files(version).__enter__()
    assert str(version) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_files_when_list_and_file_are_both_exchanged_then_the_registry_still_tells(
    published, change
):
    from idc.core.checksums import SUMS, write_sums

    registry, version, folder = published
    change(SUMS, (folder / SUMS).read_bytes())
    point = "artifacts/point.json"
    change(point, (folder / point).read_bytes().replace(b"0.5", b"0.1"))
    write_sums(folder)
    with pytest.raises(InputError, match=r"SHA256SUMS of .* is not what was registered"):
        registry.files(version).__enter__()


@pytest.mark.parametrize("name", FILES)
def test_served_model_when_a_bit_is_flipped_then_does_not_load(published, change, name):
    _, _, folder = published
    change(name, flipped((folder / name).read_bytes()))
    with pytest.raises(Exception, match=r"damaged or exchanged|not JSON|Failed to run user code"):
        mlflow.pyfunc.load_model(str(folder))
