"""Where every stage reads and writes, relative to the project's root.

The paths of `dvc.yaml` and these are the same; a test holds them together.
"""

from pathlib import Path

PARAMS = Path("params.yaml")
DVC_FILE = Path("dvc.yaml")
DVC_LOCK = Path("dvc.lock")

RAW = Path("data/raw")
RAW_POINTER = Path("data/raw.dvc")  # of `dvc add data/raw`; others lie beside their archives
CASE_LISTS = Path("data/case_lists")
LABEL_OVERRIDES = Path("data/label_overrides.csv")
PATCHES = Path("data/patches")
PIXELS = PATCHES / "pixels.npy"
INDEX = PATCHES / "index.parquet"
MANIFEST = Path("data/manifest.csv")
CASE_SUBSETS = Path("data/case_subsets.csv")
EARLIER_CASE_SUBSETS = Path("data/case_sides.csv")  # its earlier name
SPLITS = Path("data/splits.csv")
BASELINE_SCORES = Path("data/baseline_scores.parquet")
PREDICTIONS = Path("data/predictions.parquet")

BUNDLE = Path("models/fusion")
OPERATING_POINT = Path("models/operating_point.json")

REPORTS = Path("reports")
INGEST_REPORT = REPORTS / "ingest.json"
LEAKAGE_REPORT = REPORTS / "leakage.json"
TRAINING_PROFILE = REPORTS / "training_profile.json"  # what drift is measured against
METRICS = REPORTS / "metrics.json"
EVALUATION = REPORTS / "evaluation.json"
PLOTS = REPORTS / "plots"
CASES = REPORTS / "cases"
FIGURES = REPORTS / "figures"
EXPLAIN = REPORTS / "explain"
EXPLAIN_SCORES = EXPLAIN / "scores.json"
ERROR_GROUPS = EXPLAIN / "error_groups.json"
REPORT_PAGE = REPORTS / "index.html"
MODEL_CARD = REPORTS / "model_card.md"
PUBLISHED = REPORTS / "published.json"
# of `idc promote` and `idc drift`, no DVC outputs: they name versions
DECISION = REPORTS / "decision.json"
DRIFT = REPORTS / "drift.json"

STATE = Path(".idc")  # checkpoints and locks: never a DVC output, never in git
SERVICES = STATE / "services"  # records and logs of what `idc up` started
CHECKPOINTS = STATE / "checkpoints"  # of trainings that have not ended
EMBEDDINGS = STATE / "embeddings"  # by frozen backbones, kept for the next training
WORKSPACE_RECORD = STATE / "workspace.json"  # there in a workspace alone: where it came from
UNCOMMITTED = STATE / "uncommitted.diff"  # of a workspace, against the last commit
EXPLAIN_TIMES = STATE / "explain_times.json"  # of the last run of explain; MLflow keeps them
MLRUNS = Path("mlruns")
