"""Versions of the registered model, the alias `champion`, and the log of promotion decisions.

The log is an experiment of its own in the store that holds the registry, a run per decision: it is
where the alias is, so every machine sees it and a backup of one holds the other. A run is opened
before the alias moves and closed after; entries are never changed otherwise. Those deleted in the
user interface still count.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import mlflow
from mlflow.entities import Run, ViewType
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.tracking import MlflowClient

from idc.core.checksums import SUMS, file_sha256, require_unchanged
from idc.core.config import Params
from idc.core.errors import InputError
from idc.core.scratch import scratch_folder
from idc.models.spec import digest_bundle
from idc.tracking.connection import connect, ensure_experiment, is_empty, tracking_uri
from idc.tracking.model_version import ALIAS
from idc.tracking.reading import reading_store
from idc.tracking.recording import (
    COMMIT_TAG,
    ENVIRONMENT_TAG,
    FILES_TAG,
    MODEL_TAG,
    RAW_DATASET,
    RESULT_TAG,
    TRAINED_BY_TAG,
)

CHAMPION = "champion"
DECISION_FILE = "decision.json"

_KIND, _STATE = "kind", "state"
_FROM, _TO = "champion_before", "version"
_GATE_DIGEST, _GATE_CASES, _MODELS = "gate_digest", "gate_cases", "models"
_PAGE = 1000
_MAX_RUNS = 50_000  # as many as MLflow gives at once

Kind = Literal["promote", "keep", "dry-run", "rollback"]
State = Literal["decided", "done", "interrupted"]


@dataclass(frozen=True)
class Version:
    """A registered model version and what it says of itself."""

    name: str
    version: str
    run_id: str
    result_digest: str
    model_digest: str
    commit: str
    files_digest: str
    """Of the list of digests beside its files; empty of a version from before there was one."""

    def __str__(self) -> str:
        return f"{self.name} version {self.version}"


@dataclass(frozen=True)
class Entry:
    """One line of the promotion log."""

    run_id: str
    time_ms: int
    """Since 1970, UTC."""
    kind: Kind
    state: State
    """`decided` until the alias has moved, `interrupted` where it never did."""
    champion_before: str | None
    """Version that was champion; None where there was none."""
    version: str
    """Version that was compared, or that a rollback returned to."""
    gate_digest: str | None
    """Digest of the gate's patches; None of a rollback."""
    gate_cases: frozenset[str]
    models: str
    """Digests of the weights compared."""


class Registry:
    """The registered model of `publish.model_name` and its promotion log."""

    def __init__(self, root: Path, params: Params) -> None:
        """Open the store of the project at `root`.

        Raises:
            InputError: If the local store cannot be written.
            StoreUnavailableError: If a tracking server does not answer.
        """
        self._client: MlflowClient = connect(root)
        self._root = root
        self._name = params.publish.model_name
        self._experiment = f"{params.publish.experiment}-promotions"

    def find(self, alias: str) -> Version | None:
        """Return the version that an alias points at, or None."""
        aliases = self._aliases()
        return self.load(aliases[alias]) if alias in aliases else None

    def champion(self) -> Version | None:
        """Return the version that is served, or None."""
        return self.find(CHAMPION)

    def challenger(self) -> Version:
        """Return the version that wants to be served.

        Raises:
            InputError: If there is none.
        """
        challenger = self.find(ALIAS)
        if challenger is None:
            raise InputError(
                f"the model {self._name} has no version with the alias {ALIAS}: run `make repro`"
            )
        return challenger

    def load(self, version: str) -> Version:
        """Return a version by its number.

        Raises:
            InputError: If the registry has none of that number.
        """
        try:
            found = self._client.get_model_version(self._name, version)
        except MlflowException:
            known = [str(each.version) for each in self._versions()]
            raise InputError(
                f"the registry has no {self._name} version {version}; it has "
                f"{', '.join(sorted(known, key=int)) or 'none'}"
            ) from None
        tags = found.tags
        return Version(
            self._name,
            str(found.version),
            str(found.run_id),
            tags.get(RESULT_TAG, ""),
            tags.get(MODEL_TAG, ""),
            tags.get(COMMIT_TAG, "none"),
            tags.get(FILES_TAG, ""),
        )

    @contextlib.contextmanager
    def files(self, version: Version) -> Iterator[tuple[Path, Path]]:
        """Yield the folder of the model and the file of its operating point, for a while.

        Raises:
            InputError: If the store no longer holds them, or they are not what was registered.
        """
        with scratch_folder() as scratch:
            try:
                # not `models:/name/version`: that is looked up in the store of the process
                uri = self._client.get_model_version_download_uri(version.name, version.version)
                folder = Path(
                    mlflow.artifacts.download_artifacts(
                        uri, dst_path=str(scratch), tracking_uri=tracking_uri(self._root)
                    )
                )
                _require_registered(version, folder)
                artifacts = Model.load(str(folder)).flavors["python_function"]["artifacts"]
                bundle, point = (
                    folder / artifacts[part]["path"] for part in ("bundle", "operating_point")
                )
            except (MlflowException, OSError, KeyError) as error:
                raise InputError(
                    f"the files of {version} are missing in the store ({error}): restore it from a "
                    "backup, or run `idc publish` where its results lie"
                ) from None
            if version.model_digest and digest_bundle(bundle) != version.model_digest:
                raise _not_registered(version, bundle)
            yield bundle, point

    @contextlib.contextmanager
    def run_file(self, version: Version, name: str) -> Iterator[Path | None]:
        """Yield a file that the version's run holds, for a while; None where it holds none."""
        with scratch_folder() as folder:
            path = None
            with contextlib.suppress(MlflowException, OSError):
                path = Path(self._client.download_artifacts(version.run_id, name, str(folder)))
            yield path

    def run(self, version: Version) -> Run | None:
        """Return the run of a version, or None where the store lacks it."""
        try:
            return self._client.get_run(version.run_id)
        except MlflowException:
            return None

    def aliases_of(self, version: Version) -> list[str]:
        """Return the aliases that point at a version."""
        return sorted(alias for alias, at in self._aliases().items() if at == version.version)

    def environment(self, version: Version) -> dict[str, str]:
        """Return machine and versions that a version was trained with; empty if not recorded."""
        run = self.run(version)
        if run is None:
            return {}
        tags = run.data.tags
        if ENVIRONMENT_TAG not in tags and TRAINED_BY_TAG in tags:
            with contextlib.suppress(MlflowException):
                tags = self._client.get_run(tags[TRAINED_BY_TAG]).data.tags
        found: dict[str, str] = json.loads(tags.get(ENVIRONMENT_TAG, "{}"))
        return found

    def raw_digest(self, version: Version) -> str | None:
        """Return DVC's md5 of the raw archive that a version was made from, if it is recorded."""
        run = self.run(version)
        inputs = [] if run is None or run.inputs is None else run.inputs.dataset_inputs
        for item in inputs:
            if item.dataset.name == RAW_DATASET:
                return str(item.dataset.digest)
        return None

    def log_decision(
        self,
        kind: Kind,
        *,
        before: Version | None,
        version: Version,
        content: Mapping[str, Any],
        gate_digest: str | None = None,
        gate_cases: frozenset[str] = frozenset(),
    ) -> str:
        """Append an entry, `decided` and not yet done; return its id.

        Args:
            kind: What was decided.
            before: The champion as it is.
            version: The version that was compared, or that a rollback returns to.
            content: All reasons, as JSON.
            gate_digest: Digest of the gate's patches.
            gate_cases: Their cases.
        """
        tags = {
            _KIND: kind,
            _STATE: "decided",
            _TO: version.version,
            _MODELS: name_models(before, version),
        }
        if before is not None:
            tags[_FROM] = before.version
        if gate_digest is not None:
            tags |= {_GATE_DIGEST: gate_digest, _GATE_CASES: ",".join(sorted(gate_cases))}
        run = self._client.create_run(
            ensure_experiment(self._client, self._experiment, self._root),
            run_name=f"{kind} {version.version}",
            tags=tags,
        )
        self._client.log_dict(run.info.run_id, dict(content), DECISION_FILE)
        return str(run.info.run_id)

    def move_champion(self, version: Version) -> None:
        """Point the alias `champion` at a version: one write, so it never points at nothing."""
        self._client.set_registered_model_alias(version.name, CHAMPION, version.version)

    def close_decision(self, run_id: str, state: State = "done") -> None:
        """Say how an entry ended: by its tag last, so that one half closed still counts as open."""
        self._client.set_terminated(run_id, "FINISHED" if state == "done" else "KILLED")
        self._client.set_tag(run_id, _STATE, state)

    def entries(self) -> list[Entry]:
        """Return the promotion log, oldest first."""
        experiment = self._client.get_experiment_by_name(self._experiment)
        if experiment is None:
            return []
        runs, token = [], None
        while True:
            page = self._client.search_runs(
                [experiment.experiment_id],
                run_view_type=ViewType.ALL,
                max_results=_PAGE,
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
            runs += [run for run in page if _KIND in run.data.tags]
            token = page.token
            if not token:
                return [_read_entry(run) for run in runs]

    def _aliases(self) -> dict[str, str]:
        try:
            model = self._client.get_registered_model(self._name)
        except MlflowException:
            return {}
        return {alias: str(version) for alias, version in model.aliases.items()}

    def _versions(self) -> list[Any]:
        return list(self._client.search_model_versions(f"name = '{self._name}'"))


def list_aliased_digests(root: Path) -> set[str]:
    """Return the result digest of every model version that an alias points at.

    Raises:
        InputError: If the local store cannot be written, or a server refuses to answer.
        StoreUnavailableError: If the store is away.
    """
    with reading_store(root):
        versions = [version for _, version in _aliased_versions(root)]
    return {version.tags[RESULT_TAG] for version in versions if RESULT_TAG in version.tags}


def list_aliased_without_files(root: Path) -> list[str]:
    """Return the model versions with an alias whose files the store no longer holds, for people.

    Raises:
        InputError: If the local store cannot be written, or a server refuses to answer.
        StoreUnavailableError: If the store is away.
    """
    uri = tracking_uri(root)
    with reading_store(root):
        return [
            f"{version.name} version {version.version} ({alias})"
            for alias, version in _aliased_versions(root)
            if RESULT_TAG in version.tags  # published by this project
            and not mlflow.artifacts.list_artifacts(artifact_uri=version.source, tracking_uri=uri)
        ]


def list_kept(root: Path) -> set[str]:
    """Return the ids of deleted runs and models that must not go for good.

    These are runs of the promotion log, and whatever an alias of a registered model points at.

    Raises:
        InputError: If the local store cannot be written, or a server refuses to answer.
        StoreUnavailableError: If the store is away.
    """
    client = connect(root)
    experiments = [item.experiment_id for item in client.search_experiments(ViewType.ALL)]
    deleted = client.search_runs(
        experiments, run_view_type=ViewType.DELETED_ONLY, max_results=_MAX_RUNS
    )
    kept = {run.info.run_id for run in deleted if {_KIND, _MODELS} <= set(run.data.tags)}
    for _, version in _aliased_versions(root):
        # the source of a version is the address of a model in MLflow 3
        kept |= {version.run_id or "", (version.source or "").removeprefix("models:/")}
    return kept


def _aliased_versions(root: Path) -> Iterator[tuple[str, ModelVersion]]:
    """Yield each alias of each registered model, and the version it points at."""
    if is_empty(root):
        return
    client = connect(root)
    for model in client.search_registered_models(max_results=_PAGE):
        # a search leaves the aliases out
        for alias in client.get_registered_model(model.name).aliases:
            yield alias, client.get_model_version_by_alias(model.name, alias)


def _require_registered(version: Version, folder: Path) -> None:
    """Check the files of a version against their list, and that against its digest in the registry.

    Raises:
        InputError: If one of them was damaged or exchanged.
    """
    if not version.files_digest:
        return  # from before there was a list
    listed = folder / SUMS
    if not (listed.is_file() and file_sha256(listed) == version.files_digest):
        raise _not_registered(version, listed)
    try:
        require_unchanged(folder)
    except InputError as error:
        raise error.found_in(str(version)) from None


def _not_registered(version: Version, path: Path) -> InputError:
    return InputError(
        f"{path.name} of {version} is not what was registered: it was damaged or exchanged",
        fix="restore the store from a backup, or `idc rollback`",
    )


def name_models(before: Version | None, version: Version) -> str:
    """Name two models that are compared, by their results: weights and operating point."""
    return f"{'none' if before is None else before.result_digest}:{version.result_digest}"


def _read_entry(run: Run) -> Entry:
    tags: dict[str, Any] = run.data.tags
    return Entry(
        run_id=run.info.run_id,
        time_ms=int(run.info.start_time),
        kind=tags[_KIND],
        state=tags[_STATE],
        champion_before=tags.get(_FROM),
        version=tags[_TO],
        gate_digest=tags.get(_GATE_DIGEST),
        gate_cases=frozenset(filter(None, tags.get(_GATE_CASES, "").split(","))),
        models=tags.get(_MODELS, ""),
    )
