"""Feed a reader with inputs that reach ever more of its code: `make fuzz`.

libFuzzer, through atheris, changes sound zips and images and keeps what takes another branch of
`idc.data.ingest`. It stops at the first input that raises anything but the reader's own errors,
takes 10 s, or lets the process grow over 1 GiB, and leaves that input as `crash-…`, `timeout-…` or
`oom-…` in the corpus' folder. Its own name minimises it: `-minimize_crash=1`.
"""

import argparse
import sys
from pathlib import Path

import atheris

MAX_SECONDS = 10
MAX_MIB = 1024
_MAX_BYTES = {"zip": 2048, "image": 1024, "archive": 2048}

with atheris.instrument_imports(include=["idc"]):
    from tests.fuzz.examples import draw_images, draw_zips
    from tests.fuzz.readers import READERS

_SEEDS = Path(__file__).with_name("seeds")


def main() -> None:
    """Run one reader as often as asked; further arguments are libFuzzer's own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reader", choices=READERS)
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--corpus", type=Path, default=Path(".idc/fuzz"))
    arguments, further = parser.parse_known_args()
    corpus = arguments.corpus / arguments.reader
    corpus.mkdir(parents=True, exist_ok=True)
    examples = draw_images() if arguments.reader == "image" else draw_zips()
    for number, content in enumerate(examples):
        (corpus / f"example-{number}").write_bytes(content)
    options = {
        "runs": arguments.runs,
        "timeout": MAX_SECONDS,
        "rss_limit_mb": MAX_MIB,
        "max_len": _MAX_BYTES[arguments.reader],
        "artifact_prefix": f"{arguments.corpus}/",
        "print_final_stats": 1,
    }
    folders = [corpus, *[path for path in [_SEEDS / arguments.reader] if path.is_dir()]]
    flags = [f"-{name}={value}" for name, value in options.items()]
    atheris.Setup([sys.argv[0], *flags, *further, *map(str, folders)], READERS[arguments.reader])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
