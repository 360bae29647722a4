"""Where the MLflow store is, how it is opened safely, and how its failures read."""

from __future__ import annotations

import logging
import os
import re
import textwrap
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from pipeline import files
from pipeline.errors import SpaceError, TrackingError
from pipeline.space import free_bytes, in_words, is_full, largest_file

#: What a database must be able to grow by: a new one has most of that, and a transaction its journal besides.
TRANSACTION_BYTES = 2 * 2**20


def store_uri(root: Path) -> str:
    """Returns the store's address: `MLFLOW_TRACKING_URI`, else the `mlflow.db` of the project folder `root`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root.resolve() / 'mlflow.db'}"


def is_sqlite(uri: str) -> bool:
    """Returns whether the store is a file of this machine."""
    return uri.startswith("sqlite:///")


def database_file(uri: str) -> Path:
    """Returns the file of an SQLite store, absolute or relative to the current folder."""
    return Path(uri.removeprefix("sqlite:///").partition("?")[0])


def without_password(text: str) -> str:
    """Returns the text without the user names and passwords that addresses in it may carry.

    >>> without_password("https://me:secret@example.org/mlflow is down")
    'https://example.org/mlflow is down'
    """
    return re.sub(r"//[^/\s]+@", "//", text)


def store_lock(uri: str) -> AbstractContextManager[None]:
    """Returns a lock beside the database; a server looks after its own."""
    if not is_sqlite(uri):
        return nullcontext()
    database = database_file(uri)
    return files.lock(database.with_name(f"{database.name}.lock"))


@contextmanager
def made_whole(uri: str) -> Iterator[None]:
    """Removes an SQLite database that the block began and did not finish; the caller holds the store's lock.

    MLflow makes its tables one by one, and could never open one again that has only some of them.
    """
    database = database_file(uri) if is_sqlite(uri) else None
    new = database is not None and not database.exists()
    try:
        yield
    except BaseException:
        if database is not None and new:
            _let_go(uri)
            for path in (database, database.with_name(f"{database.name}-journal")):
                path.unlink(missing_ok=True)
        raise


def _let_go(uri: str) -> None:
    """Closes what MLflow holds open of a database, as far as this version of it lets itself be asked."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    engine = getattr(SqlAlchemyStore, "_engine_map", {}).pop(uri, None)
    if engine is not None:
        engine.dispose()


@contextmanager
def store_errors(action: str, uri: str) -> Iterator[None]:
    """Yields, and turns what the store raises into one line: what failed, why, and what to do.

    Raises:
        SpaceError: The disk of the database is full.
        TrackingError: The store could not be reached, read or written.
    """
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    # ModuleNotFoundError: the driver of a database named by MLFLOW_TRACKING_URI is not installed.
    except (MlflowException, SQLAlchemyError, RequestException, OSError, ModuleNotFoundError) as error:
        if is_sqlite(uri) and _is_full(error, database_file(uri)):
            raise SpaceError(
                f"no space for MLflow's records: could not {action}, {database_file(uri)} takes some "
                f"{in_words(TRANSACTION_BYTES)} more, and {in_words(_room(database_file(uri)))} are free there; "
                "make space"
            ) from error
        reason = textwrap.shorten(_reason(error).partition("\n")[0], 300, placeholder=" ...")
        line = f"could not {action} in MLflow at {uri}: {reason}; {_advice(error)}"
        raise TrackingError(without_password(line)) from error


def _is_full(error: Exception, database: Path) -> bool:
    # Of a limit of file sizes SQLite says no more than that something was wrong with the disk.
    vague = "disk i/o error" in str(error).lower() and _room(database) < TRANSACTION_BYTES
    return vague or is_full(error)


def _room(database: Path) -> int:
    """Returns the bytes by which a database can grow."""
    most, size = largest_file(), database.stat().st_size if database.exists() else 0
    return max(0, min(free_bytes(database), free_bytes(database) if most is None else most - size))


def _reason(error: BaseException) -> str:
    """Returns MLflow's own words, but for a failed request its root: "Connection refused" and not the retries."""
    from requests import RequestException

    if isinstance(error.__context__, RequestException):
        while error.__context__ is not None:
            error = error.__context__
    return str(error).strip()


def _advice(error: Exception) -> str:
    """Returns what a person can do about a failure of the store."""
    if getattr(error, "error_code", None) == "RESOURCE_DOES_NOT_EXIST":
        return "it was removed, or tracked in another store (see MLFLOW_TRACKING_URI); start a new run"
    if os.environ.get("MLFLOW_TRACKING_URI"):
        return "check that the server runs and that MLFLOW_TRACKING_URI is right, or unset it to track in ./mlflow.db"
    return "check that the file is yours to write and that the disk has room"


def silence() -> None:
    """Hides MLflow's chatter (migrations, links, bars of files, advice about git), not its warnings and errors."""
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("mlflow.utils.git_utils").setLevel(logging.ERROR)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # tracebacks of what `store_errors` says


@contextmanager
def impatient() -> Iterator[None]:
    """Yields while MLflow gives up on a silent server after some ten seconds, unless the user set other limits.

    Only for the first contact, where a wrong address is likely. A run of hours had better wait out the restart of its
    server, for which MLflow's own four minutes are right.
    """
    limits = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}
    added = {name: limit for name, limit in limits.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
