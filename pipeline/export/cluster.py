"""A Ray cluster to predict on: the one that Ray knows of, else one of this machine alone; and how many workers fit."""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError, one_line

#: Cores of a worker where nobody says how many workers there are: small batches hardly gain from more.
_CORES = 4

#: Bytes of the object store of a Ray of this machine, beside the export: paths and rows are small.
_STORE = 2**27


@dataclass(frozen=True)
class Workers:
    """How many workers there are, and what each has to itself: cores and GPUs."""

    count: int
    cores: int
    gpus: int = 0

    def line(self) -> str:
        """Returns this in words.

        >>> Workers(2, 4, 1).line()
        '2 workers, each with 4 cores and a GPU'
        """
        return (
            f"{self.count} worker{'s, each' if self.count > 1 else ''} with {self.cores} "
            f"core{'s' if self.cores > 1 else ''}{' and a GPU' if self.gpus else ''}"
        )


def plan_workers(nodes: Sequence[Mapping[str, float]], asked: int | None, *, growing: bool) -> Workers:
    """Returns the workers that machines have room for, each with as many cores as are left for it.

    Args:
        nodes: What each machine has of `CPU` and `GPU`.
        asked: How many workers are wanted; None: one a GPU where there are GPUs, else one for every four cores.
        growing: Whether machines may be added, so that workers without room may be wanted: they wait for it.

    Raises:
        PipelineError: There is no room, or not for as many as are wanted.
    """
    gpus = any(node.get("GPU", 0) >= 1 for node in nodes)
    usable = [node for node in nodes if node.get("CPU", 0) >= 1 and (node.get("GPU", 0) >= 1 or not gpus)]
    if not usable:
        raise PipelineError("the Ray cluster has no machine with a core to spare; add one, or leave out --engine ray")

    def room(cores: int) -> int:
        return sum(int(min(node["CPU"] // cores, node["GPU"] if gpus else node["CPU"])) for node in usable)

    if asked and asked > room(1) and not growing:
        raise PipelineError(f"--workers {asked}: this machine has room for {room(1)}; name at most as many")
    smallest, largest = (int(choose(node["CPU"] for node in usable)) for choose in (min, max))
    count = asked or room(min(_CORES, smallest))
    cores = max((cores for cores in range(1, largest + 1) if room(cores) >= count), default=1)
    return Workers(count, cores, int(gpus))


def require_ray() -> None:
    """Looks whether Ray is installed.

    Raises:
        PipelineError: It is not.
    """
    if importlib.util.find_spec("ray") is None:
        raise PipelineError("--engine ray needs Ray, which is not installed; pip install 'transfer-pipeline[ray]'")


@contextmanager
def ray_cluster(asked: int | None, store: int = 0) -> Iterator[Workers]:
    """Yields the workers there is room for, while this process is connected to a Ray cluster.

    It is the cluster of `RAY_ADDRESS`, else that of `ray start` on this machine. Where there is none, or the address is
    `local`, one is started that listens on the loopback interface only, and is stopped after the block.

    Args:
        asked: How many workers are wanted; None leaves it to `plan_workers`.
        store: Bytes that the object store of such a cluster must hold beside paths and rows.

    Raises:
        PipelineError: The cluster does not answer, or has no room.
    """
    address = _cluster_address()
    # Read when Ray is loaded: no usage statistics, and no warning of a change to come in what GPUs a worker sees.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    try:
        with _signals_kept():
            _connect(ray, address, store)
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        yield plan_workers(nodes, asked, growing=address is not None)
    finally:
        ray.shutdown()


def _connect(ray: Any, address: str | None, store: int) -> None:
    said: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if address is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        with _on_this_machine(ray):
            ray.init("local", num_cpus=cores, include_dashboard=False, object_store_memory=_STORE + store, **said)
        return
    try:
        ray.init(address, **said)
    except Exception as error:  # ConnectionError, RuntimeError, ValueError: of the address, the network, the versions
        raise PipelineError(
            f"the Ray cluster {address} cannot be joined ({one_line(error)}); start it, or set RAY_ADDRESS=local for "
            "this machine alone"
        ) from error


def _cluster_address() -> str | None:
    """Returns where there is a cluster, by the rules of `ray.init`; None: nowhere.

    Not left to `ray.init`: a cluster that is started takes settings that one which is joined must not be given.
    """
    named = os.environ.get("RAY_ADDRESS")
    if named:
        return None if named == "local" else named
    try:
        started = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster").read_text(encoding="utf-8")
    except OSError:
        return None
    return started.strip() or None


@contextmanager
def _on_this_machine(ray: Any) -> Iterator[None]:
    """Keeps a Ray that is started in the block to itself, for which it has no setting (2.60).

    Addresses: its switch for "this machine is no cluster", as on macOS and Windows, makes it use the loopback address
    alone; `_node_ip_address` does not. Its processes read it from the environment, this one has when Ray was loaded.
    Requests: its API server, started even without a dashboard, asks the metadata services of three clouds where it is,
    whatever the usage statistics are set to. Ray goes on where that server cannot be started; here it is not.
    """
    constants, services = ray._private.ray_constants, ray._private.services
    name = constants.ENABLE_RAY_CLUSTERS_ENV_VAR
    before = constants.ENABLE_RAY_CLUSTER, services.start_api_server, os.environ.get(name)
    constants.ENABLE_RAY_CLUSTER, services.start_api_server = False, lambda *_, **__: (None, None)
    os.environ[name] = "0"
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER, services.start_api_server = before[:2]
        os.environ.pop(name)
        if before[2] is not None:
            os.environ[name] = before[2]


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Gives SIGTERM back to whoever had it: `ray.init` takes it and would end the process with a code of its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit:
        signal.signal(signal.SIGTERM, before)
        signal.raise_signal(signal.SIGTERM)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
