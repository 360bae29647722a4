"""A server whose model is a function, answering in a thread of the test's process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pipeline.export.predict import Prediction
from pipeline.serve.server import PageServer

CONTRACT = {"run": "photos-1", "backbone": "some_net", "labels": ["cat", "dog"], "threshold": 0.63, "dataset": "d" * 64}


@contextmanager
def running(
    ask: Callable[[bytes], Prediction], contract: Mapping[str, Any] = CONTRACT, patience: float = 20.0
) -> Iterator[PageServer]:
    """Yields a server that answers."""
    with PageServer(contract, 0, patience) as server:
        thread = threading.Thread(target=server.run, args=(ask,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
