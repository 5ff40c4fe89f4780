"""Every command block of the README and of the tutorials, run as written in a fresh clone.

What a reader has and a test has not is put in place: the environment (`.venv` of the clone is this
one), the download (`archive.zip`, a small synthetic archive, beside the clone and not in
`~/Downloads`), a patch to score. The
reader's edit of `params.yaml` is made, and then a tiny network asked for. `make demo` and
`make test` are not run again, only looked up: the demo has a test of its own, and the other would
run this one.
"""

import os
import re
import shlex
import subprocess
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from idc.core.config import dot_keys
from idc.runs.workspace import override_params
from idc.synthetic import ArchivePlan, create_archive
from tests.docs.pages import DOCS, README, ROOT, read_blocks
from tests.own_environment import clean_environment, link_environment
from tests.small_run import SMALL

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not (ROOT / ".git").exists(), reason="an unpacked zip has nothing to clone"),
]

NOT_RUN_AGAIN = re.compile(r"^make (demo|test)\b", re.MULTILINE)
TINY = SMALL | {
    "split.fractions": {"val": 0.3, "gate": 0.0, "test": 0.3},
    "train.patience": 1,
    "train.learning_rate": 0.001,
    "train.weight_decay": 0.02,
}


@dataclass(frozen=True)
class Reader:
    """Somebody with a home, an archive in the downloads, and one cache for all of their clones."""

    home: Path
    archive: Path

    def clone(self, name: str) -> Path:
        folder = self.home / name
        subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True)
        link_environment(folder / ".venv")
        (folder / ".dvc/config.local").write_text(f"[cache]\n    dir = {self.home / 'cache'}\n")
        (folder.parent / "archive.zip").write_bytes(self.archive.read_bytes())
        with zipfile.ZipFile(self.archive) as archive:
            (folder / "patch.png").write_bytes(archive.read(archive.namelist()[0]))
        return folder

    def environment(self, folder: Path) -> dict[str, str]:
        return clean_environment(folder) | {"HOME": str(self.home)}


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    (home / ".gitconfig").write_text("[user]\n    name = A Reader\n    email = reader@home\n")
    archive = tmp_path_factory.mktemp("download") / "archive.zip"
    create_archive(archive, ArchivePlan(num_cases=12, patches_per_case=16, seed=1))
    return Reader(home, archive)


def write_script(page: Path) -> str:
    """Return the blocks of a page as one session, as a reader types them one after the other."""
    parts = ["set -euo pipefail"]
    for block in read_blocks(page):
        if block.language == "bash":
            parts.append(NOT_RUN_AGAIN.sub(r"make --dry-run \1", block.text))
        elif block.language == "python":
            parts.append(f"python - <<'END'\n{block.text}END")
        else:
            assert block.language in ("text", "yaml"), f"{page}: neither command nor output"
    return "\n".join(parts)


def edit_params(page: Path, folder: Path) -> None:
    for block in read_blocks(page):
        if block.language == "yaml":
            override_params(folder / "params.yaml", dot_keys(yaml.safe_load(block.text)))
    override_params(folder / "params.yaml", TINY)


def run_blocks(page: Path, folder: Path, environment: dict[str, str]) -> None:
    edit_params(page, folder)
    script = write_script(page).replace("~/Downloads", shlex.quote(str(folder.parent)))
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    if "make repro" in script:
        assert (folder / "reports/index.html").exists()
        status = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=folder, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert "dvc.lock" not in status.stdout, "the results are not committed"
        assert "probability" in done.stdout


@pytest.mark.parametrize(
    "page", [DOCS / "tutorial/first_archive.md", DOCS / "tutorial/demo.md", README], ids=str
)
def test_command_blocks_when_run_as_written_in_a_fresh_clone_then_they_work(page, reader):
    folder = reader.clone(page.stem)
    run_blocks(page, folder, reader.environment(folder))


def test_command_blocks_when_path_home_umask_locale_and_time_zone_are_unusual_then_they_work(
    reader,
):
    folder = reader.clone("my clön (2)/IDC 50 px")
    settings = {
        "HOME": "/sys",  # where not even root can make a file
        "GIT_CONFIG_GLOBAL": str(reader.home / ".gitconfig"),
        "LC_ALL": "C",
        "TZ": "Pacific/Chatham",
    }
    before = os.umask(0o077)
    try:
        run_blocks(README, folder, clean_environment(folder) | settings)
    finally:
        os.umask(before)
