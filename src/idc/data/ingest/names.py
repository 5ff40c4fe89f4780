"""What the paths of patches say, read thousands at a time."""

import unicodedata

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

NAME_GRAMMAR = "<case>_idx5_x<X>_y<Y>_class<0|1>.png"
CASE_RULE = (
    'a case begins with none of = + - @ and holds none of _ / \\ , " # and no control character'
)

# read by RE2: thousands of names at once
_PATH = (
    r"(?:^|(?:^|/)(?P<folder>[^/]*)/)"
    # it stands in CSV files, where a spreadsheet would take `=cmd()` for a formula, in file names
    # and on terminals
    r"(?P<case>[^=+\-@_/\\,\"#\x00-\x1f\x7f-\x9f\x{2028}\x{2029}]"
    r"[^_/\\,\"#\x00-\x1f\x7f-\x9f\x{2028}\x{2029}]*)"
    r"_idx5_x(?P<x>[0-9]{1,7})_y(?P<y>[0-9]{1,7})_class(?P<label>[01])"
    r"\.(?i:png|jpe?g)$"
)


def parse_paths(paths: pd.Series) -> pd.DataFrame:
    """Read what the paths of patches say.

    Example: `IDC/10253/0/10253_idx5_x1001_y1051_class0.png` says case `10253`, x 1001, y 1051,
    label 0, folder `0`, depth 3.

    Args:
        paths: str, with `/` between folders.

    Returns:
        `case` (str, Unicode NFC: macOS writes an accent apart from its letter, and both spellings
        are one case; missing where the name is off the grammar), `x` and `y` int32 (px, -1 where
        off), `label` int8 (-1 where off), `folder` str (the innermost), `depth` int (folders
        above); indexed like `paths`.
    """
    # not pyarrow's own normalisation, which takes letters apart (apache/arrow#51225)
    normal = pa.array(paths, pa.string())
    if not pc.all(pc.string_is_ascii(normal)).as_py():
        normal = pa.array([unicodedata.normalize("NFC", path) for path in paths], pa.string())
    matched = pc.extract_regex(normal, _PATH)
    # flatten: a field of a struct that is null is "" by itself, and null only so
    names = [matched.type.field(i).name for i in range(matched.type.num_fields)]
    parts = dict(zip(names, matched.flatten(), strict=True))

    def number(key: str, kind: str) -> np.ndarray:
        values: np.ndarray = parts[key].cast(pa.int32()).fill_null(-1).to_numpy()
        return values.astype(kind)

    columns = {
        "case": parts["case"].to_numpy(zero_copy_only=False),
        "x": number("x", "int32"),
        "y": number("y", "int32"),
        "label": number("label", "int8"),
        "folder": parts["folder"].to_numpy(zero_copy_only=False),
        "depth": pc.count_substring(normal, "/").to_numpy(),
    }
    return pd.DataFrame(columns, index=paths.index)
