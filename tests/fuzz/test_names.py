"""Names of patches as no archive should have them."""

import unicodedata

import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from idc.data.ingest.names import parse_paths
from tests.fuzz.hostile import bounded, share

CASES = st.text(st.characters(codec="utf-8"), max_size=6) | st.sampled_from(
    [
        "8863",
        "=cmd()",
        "+1",
        "-1",
        "@x",
        "<script>",
        "..",
        "a,b",
        'a"b',
        "a#b",
        "M\u00fcller",
        "Mu\u0308ller",
    ]
)
NUMBERS = st.integers(-1, 10**8).map(str) | st.sampled_from(["", "\u0661", "1e3", "0001", "+1"])
NAMES = st.builds(
    "{}{}/{}_idx5_x{}_y{}_class{}{}".format,
    st.sampled_from(["", "IDC/", "a\n/", "/", "//"]),
    st.text(st.characters(codec="utf-8"), max_size=3),
    CASES,
    NUMBERS,
    NUMBERS,
    st.sampled_from(["0", "1", "2", "", "01"]),
    st.sampled_from([".png", ".PNG", ".jpeg", ".png\n", ".png/", "png", ".svg"]),
)


@share(0.05)
@given(paths=st.lists(NAMES | st.text(st.characters(codec="utf-8"), max_size=12), max_size=6))
def test_parse_paths_when_names_are_hostile_then_what_is_read_stands_in_the_name(paths):
    with bounded():
        parsed = parse_paths(pd.Series(paths, dtype="str"))
    for path, row in zip(paths, parsed.itertuples(), strict=True):
        if pd.isna(row.case):
            assert (row.x, row.y, row.label) == (-1, -1, -1)
            continue
        name = unicodedata.normalize("NFC", path).rsplit("/", 1)[-1]
        case, _, rest = name.partition("_idx5_x")
        assert row.case == case
        assert not set(case) & set(',"#/\\_\n\r\0')
        assert case[0] not in "=+-@"
        x, _, rest = rest.partition("_y")
        assert (int(x), int(rest.partition("_class")[0])) == (row.x, row.y)
        assert 0 <= row.x < 10**7
        assert row.label in (0, 1)
