"""The one address that servers of this project listen on: this machine, and no other can reach it."""

from __future__ import annotations

import errno
import socket

HOST = "127.0.0.1"


def why_not(port: int, error: OSError) -> str:
    """Returns why a port cannot be listened on, and one that can, as the message of an error."""
    reason = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
    return f"port {port} {reason}; choose another: --port {free_port()}"


def free_port() -> int:
    """Returns a port that nobody listens on."""
    with socket.socket() as candidate:
        candidate.bind((HOST, 0))
        port: int = candidate.getsockname()[1]
        return port
