"""Sound zips and images, and the inputs that a fuzzer found worth keeping, through every reader."""

from pathlib import Path

import pytest

from tests.fuzz.examples import draw_images, draw_zips
from tests.fuzz.hostile import bounded
from tests.fuzz.readers import READERS

SEEDS = Path(__file__).with_name("seeds")


@pytest.mark.parametrize("reader", READERS)
def test_reader_when_it_reads_what_was_kept_then_gives_a_result_or_its_own_error(reader):
    with bounded():
        for content in [*draw_images(), *draw_zips()]:
            READERS[reader](content)
        for path in sorted(SEEDS.rglob("*")):
            if path.is_file():
                READERS[reader](path.read_bytes())


def test_examples_when_they_are_read_then_cover_what_a_fuzzer_must_start_from():
    from idc.data.ingest.decoding import decode_patch

    kinds = {decode_patch(content)[1] for content in draw_images()}
    assert {"1-bit greyscale PNG", "8-bit palette PNG", "16-bit greyscale PNG"} <= kinds
    assert {"8-bit RGBA PNG", "8-bit greyscale + alpha PNG", "8-bit RGB JPEG"} <= kinds
    zips = list(draw_zips())
    assert any(b"PK\x06\x06" in content for content in zips)
    assert any(b"\\0\\" in content for content in zips)
