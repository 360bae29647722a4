"""Whether a host can be reached, found out in a time that a person waits."""

from __future__ import annotations

import queue
import threading
import urllib.error
import urllib.request

from pipeline.errors import one_line

#: A proxy that is there, but has no network behind it or does not let us through.
_PROXY_REFUSALS = (407, 502, 503, 504)


def unreachable(url: str, seconds: float) -> str | None:
    """Returns why the host of `url` does not answer, or None when it does, after `seconds` at most.

    A name lookup cannot be given a timeout: it runs in a daemon thread, left behind when it hangs. Asking by HTTP also
    tries the proxy, if there is one, and TLS, as a download will. An answer that says no is an answer.
    """
    answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def ask() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=seconds):
                answers.put(None)
        except urllib.error.HTTPError as error:
            answers.put(f"the proxy answers {error.code}" if error.code in _PROXY_REFUSALS else None)
            error.close()
        except Exception as error:  # whatever it is, it is the reason
            answers.put(one_line(error))

    threading.Thread(target=ask, name="reach", daemon=True).start()
    try:
        return answers.get(timeout=seconds)
    except queue.Empty:
        return f"no answer within {seconds:.0f} s"
