"""The first four stages as Prefect tasks."""

from pathlib import Path

from prefect import flow

from tasks.stages import run_stage


@flow
def until_trained() -> None:
    for stage in ("ingest", "sample", "split", "train"):
        run_stage(stage, Path.cwd())


if __name__ == "__main__":
    until_trained()
