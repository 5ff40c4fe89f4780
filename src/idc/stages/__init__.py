"""The ten stages, in the order of `dvc.yaml`; each is a module with one `run(params)`.

A stage reads files, calls functions, writes files; paths are relative to the project's root.
"""

STAGES = (
    "ingest",
    "sample",
    "split",
    "train",
    "baselines",
    "predict",
    "evaluate",
    "explain",
    "report",
    "publish",
)
