"""The MLflow UI on the store that `MlflowTracker` writes to, for this machine only."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import TrackingError
from pipeline.loopback import HOST, why_not
from pipeline.tracking.store import (
    database_file,
    is_sqlite,
    silence,
    store_errors,
    store_lock,
    store_uri,
    without_password,
)


def serve_ui(root: Path, port: int) -> None:
    """Serves the MLflow UI until it is interrupted; prints its address as soon as it answers.

    When `MLFLOW_TRACKING_URI` names a server, the UI is that server's: its address is printed, and that is all.

    Args:
        root: The project folder; its `mlflow.db` is served unless `MLFLOW_TRACKING_URI` names another store.
        port: To listen on.

    Raises:
        TrackingError: There is no store yet, the port cannot be used, or MLflow's server failed.
        SystemExit: Ctrl-C (code 130) or SIGTERM (code 143), once the server has ended.
    """
    uri = store_uri(root)
    if uri.startswith(("http://", "https://")):
        print(f"MLflow UI: {without_password(uri)}  (the server that MLFLOW_TRACKING_URI names)")
        return
    _check_port(port)
    with _exit_on_signals(), tempfile.TemporaryFile() as log:
        page = _first_page(uri)
        with _server(uri, port, log.fileno()) as server:
            while server.poll() is None and not _answers(port):
                time.sleep(0.1)
            if server.poll() is None:
                print(f"MLflow UI: http://{HOST}:{port}/{page}  (Ctrl-C ends it)", flush=True)
            server.wait()
        log.seek(0)
        raise TrackingError(f"the MLflow UI ended: {_last_words(log.read().decode(errors='replace'))}")


def _first_page(uri: str) -> str:
    """Returns the page that shows the experiment that ran last, its runs beside charts of their metrics.

    MLflow's own first page is about language models, and so is an experiment's unless the address says otherwise.

    Raises:
        TrackingError: There is no store, where MLflow would make an empty one; or it cannot be read.
    """
    from mlflow import MlflowClient

    if is_sqlite(uri) and not database_file(uri).is_file():
        raise TrackingError(f"no runs to show: {database_file(uri)} is missing; make one with: pipeline run")
    silence()
    with store_errors("read the runs", uri):
        # Before the server, and under the lock: processes that migrate a database at once corrupt it.
        with store_lock(uri):
            client = MlflowClient(uri)
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        newest = client.search_runs(experiments, order_by=["attributes.start_time DESC"], max_results=1)
    if not newest:
        return ""
    return f"#/experiments/{newest[0].info.experiment_id}/runs?workflowType=machine_learning&compareRunsMode=CHART"


def _check_port(port: int) -> None:
    """Looks whether the port can be listened on.

    Raises:
        TrackingError: It cannot.
    """
    with socket.socket() as candidate:
        # As the server does; without it a port whose last connections are still closing would count as taken.
        candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            candidate.bind((HOST, port))
        except OSError as error:
            raise TrackingError(why_not(port, error)) from error


def _answers(port: int) -> bool:
    """Returns whether someone listens on the port."""
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True


@contextmanager
def _exit_on_signals() -> Iterator[None]:
    """Turns Ctrl-C and SIGTERM into `SystemExit` with the shell's code for them."""

    def leave(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    previous = {number: signal.signal(number, leave) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def _server(uri: str, port: int, log: int) -> Iterator[subprocess.Popen[bytes]]:
    """Yields MLflow's server, which writes to the file descriptor `log`; it has ended when the block has."""
    # One worker and no job runner: one person looks at pictures, and each process costs 300 MB and seconds to start.
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    environment = {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": uri,  # not an argument: it may hold a password, and arguments are for all to see
    }
    # An open browser tab must not hold up the end.
    command += ["--uvicorn-opts", "--timeout-graceful-shutdown 2"]
    server = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield server
    finally:
        server.terminate()
        try:
            server.wait(timeout=10)
        except subprocess.TimeoutExpired:
            server.kill()


def _last_words(log: str) -> str:
    """Returns the last line that a server wrote, without time stamps and exception classes.

    >>> _last_words("Traceback ...\\nmlflow.exceptions.MlflowException: Detected out-of-date database schema\\n\\n")
    'Detected out-of-date database schema'
    >>> _last_words("")
    'it said nothing'
    """
    lines = [line for line in log.splitlines() if line.strip()] or ["it said nothing"]
    return without_password(re.sub(r"^[\w.]+(Error|Exception): ", "", lines[-1].strip()))
