"""The pages of the documentation, and the fenced blocks in them."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = sorted([README, ROOT / "CONTRIBUTING.md", ROOT / "ARCHITECTURE.md", *DOCS.rglob("*.md")])
LOG = DOCS / "log.md"  # keeps the words and commands of its day

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: `bash` and `python` are run, `text` is output, `yaml` is put into a file."""

    language: str
    text: str


def read_blocks(path: Path) -> list[Block]:
    return [Block(*found) for found in _FENCE.findall(path.read_text(encoding="utf-8"))]


def name_page(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()
