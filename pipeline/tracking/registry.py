"""The model registry: versions of registered models, and the aliases that move between them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.errors import CheckError, ConfigError, TrackingError
from pipeline.tracking.store import database_file, impatient, is_sqlite, silence, store_errors, store_lock, store_uri

#: The alias of what was exported last.
CANDIDATE = "candidate"


@dataclass(frozen=True)
class Version:
    """A version of a registered model.

    Attributes:
        name: Of the registered model.
        number: Counted from 1 in each model.
        run_id: The MLflow run that it comes from; empty where it was registered by hand from elsewhere.
        tags: What is known of it.
    """

    name: str
    number: str
    run_id: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """Returns how the version is called in messages."""
        return f"version {self.number} of {self.name}"


def check_model_name(name: str, where: str) -> None:
    """Looks whether a registered model can have this name; `where` says whose it is.

    Raises:
        ConfigError: MLflow refuses it.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.utils.validation import _validate_model_name

    try:
        _validate_model_name(name)
    except MlflowException as error:
        raise ConfigError(
            f"{where}: MLflow takes no registered model {name!r}; a name without '/', ':' and '..' does"
        ) from error


def check_alias(alias: str) -> None:
    """Looks whether a version can have this alias.

    Raises:
        ConfigError: MLflow refuses it.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.utils.validation import _validate_model_alias_name, _validate_model_alias_name_reserved

    try:
        _validate_model_alias_name(alias)
        _validate_model_alias_name_reserved(alias)
    except MlflowException as error:
        raise ConfigError(
            f"--alias {alias!r}: MLflow takes letters, digits, '_' and '-', but not 'latest' and not v1, v2 and so on"
        ) from error


class Registry:
    """The registered models in a project's store. Every failure of the store is a `TrackingError`."""

    def __init__(self, root: Path) -> None:
        """Takes the project folder; its `mlflow.db` is used unless `MLFLOW_TRACKING_URI` names another store."""
        self._uri = store_uri(root)

    @cached_property
    def _client(self) -> Any:
        if is_sqlite(self._uri) and not database_file(self._uri).is_file():  # which MLflow would make, empty
            raise TrackingError(f"there is no MLflow store {database_file(self._uri)}; nothing is registered")
        from mlflow import MlflowClient

        silence()
        with store_lock(self._uri):
            return MlflowClient(self._uri)

    def versions(self, run_id: str) -> list[Version]:
        """Returns the versions that come from a run, the newest first."""
        with store_errors("look up registered models", self._uri), impatient():
            found = self._client.search_model_versions(f"run_id = '{run_id}'")
        return [_version(one) for one in sorted(found, key=lambda one: one.creation_timestamp, reverse=True)]

    def holder(self, name: str, alias: str) -> Version | None:
        """Returns the version that has an alias; None where none has."""
        with store_errors(f"look up {alias!r} of {name!r}", self._uri):
            # Not `get_model_version_by_alias`, which fails alike where the alias and where the server is missing.
            number = self._client.get_registered_model(name).aliases.get(alias)
            return None if number is None else _version(self._client.get_model_version(name, str(number)))

    def logged_model(self, run_id: str, export: str) -> str | None:
        """Returns the id of the model that a run has logged of an export, given by its digest; None without one."""
        with store_errors("look up the logged model", self._uri), impatient():
            found = logged_models(self._client, run_id)
        whole = (model for model in found if str(model.status) == "READY")
        return next((str(model.model_id) for model in whole if model.tags.get("export") == export), None)

    def register(self, name: str, model_id: str, tags: Mapping[str, str]) -> Version:
        """Returns a new version of a registered model, made of a logged model, with the alias `candidate`.

        Args:
            name: Of the registered model, which is made where there is none.
            model_id: Of the logged model; its tag `export` becomes the version's.
            tags: Of the version.
        """
        from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

        client = self._client  # opened under the lock, which must not be taken twice
        with store_errors(f"register the model as {name!r}", self._uri), store_lock(self._uri):
            model = client.get_logged_model(model_id)
            own = {key: value for key, value in model.tags.items() if key == "export"}
            self._make(name)
            made = client.create_model_version(
                # Where the files are, not "models:/<id>": MLflow would look that up in the store of the process.
                name,
                model.artifact_location,
                model.source_run_id,
                tags={**tags, **own},
                model_id=model_id,
            )
            listed = json.loads(model.tags.get(MLFLOW_MODEL_VERSIONS) or "[]")
            listed.append({"name": name, "version": made.version})  # what the UI shows beside the logged model
            client.set_logged_model_tags(model_id, {MLFLOW_MODEL_VERSIONS: json.dumps(listed)})
            client.set_registered_model_alias(name, CANDIDATE, made.version)
        return _version(made)

    def move_alias(self, alias: str, to: Version, before: Version | None, tags: Mapping[str, str]) -> None:
        """Gives a version an alias and tags.

        Raises:
            CheckError: Another than `before` has the alias by now.
        """
        client = self._client
        with store_errors(f"move {alias!r} to {to}", self._uri), store_lock(self._uri):
            now = self.holder(to.name, alias)
            if (now and now.number) != (before and before.number):
                raise CheckError(f"{alias!r} of {to.name} moved to {now or 'nobody'} meanwhile; promote again")
            for key, value in tags.items():
                client.set_model_version_tag(to.name, to.number, key, value)
            client.set_registered_model_alias(to.name, alias, to.number)

    def _make(self, name: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise


def logged_models(client: Any, run_id: str) -> list[Any]:
    """Returns what a run has logged as models, the newest first."""
    experiment = client.get_run(run_id).info.experiment_id
    found = client.search_logged_models([experiment], f"source_run_id = '{run_id}'")
    return sorted(found, key=lambda model: model.creation_timestamp, reverse=True)


def _version(found: Any) -> Version:
    return Version(found.name, str(found.version), found.run_id or "", dict(found.tags))
