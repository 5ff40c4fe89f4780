"""What a store missed, kept until it is back."""

import json

from idc.tracking.outbox import OUTBOX, Outbox, list_outboxes, load_outbox

EARLIER = {"run_id": "r1", "metrics": [["train/loss", 0.5, 1]], "tags": {"a": "b"}, "status": None}


def test_outbox_when_an_earlier_version_left_it_then_is_read_and_forgotten(tmp_path):
    path = tmp_path / ".idc/untold/r1.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(EARLIER))
    (found,) = list_outboxes(tmp_path)
    assert found == Outbox("r1", [("train/loss", 0.5, 1)], {"a": "b"})
    found.metrics.append(("train/loss", 0.4, 2))
    found.keep(tmp_path)
    assert (tmp_path / OUTBOX / "r1.json").exists()
    assert load_outbox(tmp_path, "r1").metrics[-1] == ("train/loss", 0.4, 2)
    assert len(list_outboxes(tmp_path)) == 1
    found.forget(tmp_path)
    assert list_outboxes(tmp_path) == []
    assert not path.exists()
