"""A model's folder and the served model, whatever the files and the requests hold."""

import base64
import json
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from idc.core.checksums import SUMS
from idc.evaluation.threshold.operating_point import OperatingPoint
from idc.models.bundle import load_mean_embedding, load_model, save_bundle
from idc.models.spec import digest_bundle, load_history, load_spec
from idc.serving.pyfunc_model import FusionModel
from tests.fuzz.examples import draw_images
from tests.fuzz.hostile import edited, one_line, refusal, replaced, share
from tests.random_networks import random_fusion, tiny_spec

SPEC = tiny_spec()
PATCH = np.random.default_rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8)
PNG = cv2.imencode(".png", PATCH)[1].tobytes()
SHORT = next(draw_images())
HISTORY = "epoch,train_loss,val_auroc,learning_rate\n1,0.7,0.6,0.001\n2,0.5,0.8,0.0001\n"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "fusion"
    torch.manual_seed(1)
    state = random_fusion(SPEC.backbones, dropout=0.0).state_dict()
    save_bundle(folder, state, SPEC, pd.DataFrame({"epoch": [1]}), torch.zeros(96))
    return folder


@pytest.fixture(scope="module")
def unlisted(bundle, tmp_path_factory):
    """The same without its digests, as before there were any: what it holds is all there is."""
    folder = tmp_path_factory.mktemp("unlisted") / "fusion"
    folder.mkdir()
    for path in bundle.iterdir():
        if path.name != SUMS:
            (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.fixture(scope="module")
def point(bundle):
    return OperatingPoint(
        slope=1.0, intercept=0.0, threshold=0.5, threshold_low=0.4, threshold_high=0.6,
        threshold_rule="youden", prior_shift=0.0, model_digest=digest_bundle(bundle),
        d4_average=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def served(bundle, point, tmp_path_factory):
    path = tmp_path_factory.mktemp("point") / "point.json"
    point.save(path)
    model = FusionModel()
    model.load_context(
        SimpleNamespace(artifacts={"bundle": str(bundle), "operating_point": str(path)})
    )
    return model


def rewrite(path, content):
    """Put other content in place, and what was there back afterwards."""
    before = path.read_bytes()
    path.write_bytes(content)
    return lambda: path.write_bytes(before)


@share(0.05)
@given(data=st.data())
def test_load_spec_when_the_file_is_hostile_then_reads_or_says_what_is_wrong(unlisted, data):
    path = unlisted / "spec.json"
    sound = path.read_bytes()
    restore = rewrite(
        path,
        data.draw(
            edited(sound)
            | replaced(json.loads(sound)).map(lambda value: json.dumps(value).encode())
        ),
    )
    try:
        assert one_line(refusal(lambda: load_spec(unlisted)))
    finally:
        restore()


@pytest.mark.parametrize("name", ["spec.json", "model.safetensors"])
@share(0.01)
@given(data=st.data())
def test_load_model_when_a_file_is_hostile_then_loads_or_says_what_is_wrong(unlisted, name, data):
    path = unlisted / name
    sound = path.read_bytes()
    changed = edited(sound[:4000]).map(lambda head: head + sound[4000:])
    if name == "spec.json":
        changed |= replaced(json.loads(sound)).map(lambda value: json.dumps(value).encode())
    restore = rewrite(path, data.draw(changed))
    try:
        assert one_line(refusal(lambda: load_model(unlisted)))
    finally:
        restore()


@share(0.02)
@given(profile=st.data())
def test_load_mean_embedding_when_the_file_is_hostile_then_loads_or_says_so(unlisted, profile):
    path = unlisted / "profile.safetensors"
    restore = rewrite(path, profile.draw(edited(path.read_bytes())))
    try:
        assert one_line(refusal(lambda: load_mean_embedding(unlisted)))
    finally:
        restore()


@share(0.02)
@given(content=edited(HISTORY.encode()))
def test_load_history_when_the_file_is_hostile_then_loads_or_says_so(unlisted, content):
    (unlisted / "history.csv").write_bytes(content)
    assert one_line(refusal(lambda: load_history(unlisted)))


@share(0.04)
@given(data=st.data())
def test_operating_point_when_the_file_is_hostile_then_loads_or_says_so(
    point, tmp_path_factory, data
):
    path = tmp_path_factory.getbasetemp() / "hostile_point.json"
    point.save(path)
    sound = path.read_bytes()
    path.write_bytes(
        data.draw(
            edited(sound)
            | replaced(json.loads(sound)).map(lambda value: json.dumps(value).encode())
        )
    )
    scores = []

    def load_and_score():
        loaded = OperatingPoint.load(path, model_digest=point.model_digest)
        scores.append(loaded.score(np.array([-3.0, 0.0, 3.0])))

    assert one_line(refusal(load_and_score))
    for score in scores:
        assert ((score >= 0) & (score <= 1)).all()


@share(0.02)
@given(
    place=st.integers(0, 8 * 2**16),
    name=st.sampled_from(["spec.json", "model.safetensors", "profile.safetensors", "history.csv"]),
)
def test_bundle_when_any_bit_is_flipped_then_its_reader_refuses_it(bundle, place, name):
    path = bundle / name
    content = bytearray(path.read_bytes())
    bit = place % (8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    readers = {
        "spec.json": load_spec,
        "model.safetensors": load_model,
        "profile.safetensors": load_mean_embedding,
        "history.csv": load_history,
    }
    restore = rewrite(path, bytes(content))
    try:
        error = refusal(lambda: readers[name](bundle))
    finally:
        restore()
    assert error is not None
    assert one_line(error)


def images():
    in_base64 = base64.b64encode(SHORT)
    return st.one_of(
        edited(SHORT),
        edited(SHORT).map(base64.b64encode),
        edited(in_base64).map(lambda raw: raw.decode("latin-1")),
        st.text(st.characters(codec=None), max_size=8),
        st.sampled_from([PNG, SHORT, bytearray(PNG), memoryview(PNG), np.bytes_(in_base64)]),
        st.none() | st.floats() | st.integers() | st.lists(st.integers(), max_size=2),
        st.sampled_from([np.void(b"\x89PNG"), np.float32(1), PATCH, pd.NaT, pd.NA, object()]),
    )


@share(0.10)
@given(
    rows=st.lists(images(), max_size=3),
    others=st.lists(st.text(max_size=4) | st.integers() | st.none() | st.just("image"), max_size=2),
    has_images=st.integers(0, 9),
)
def test_served_model_when_the_request_is_hostile_then_scores_or_says_which_image(
    served, rows, others, has_images
):
    column = pd.Series(rows, dtype=object)
    columns = [("image", column)] if has_images else []
    columns += [(name, column) for name in others]
    frame = pd.DataFrame(dict(enumerate(values for _, values in columns)), index=column.index)
    frame.columns = pd.Index([name for name, _ in columns], dtype=object)
    answers = []
    assert one_line(refusal(lambda: answers.append(served.predict(None, frame))))
    for answer in answers:
        assert len(answer) == len(rows)
        assert answer["probability"].between(0, 1).all()
        assert answer["prediction"].isin([0, 1]).all()
