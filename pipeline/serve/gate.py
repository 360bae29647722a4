"""Which requests are answered: those of the page itself and of programs on this machine, of a size that is bearable.

Listening on the loopback address keeps other machines out, but not other web sites: any page that is open in the same
browser can send requests to it.
"""

from __future__ import annotations

from email.message import Message
from http import HTTPStatus

from pipeline.loopback import HOST

#: Bytes of an image that is uploaded, at most: three times what phones make, and 16 of them fit in memory.
UPLOAD_LIMIT = 32 * 2**20


class Refused(Exception):
    """A request that is not answered; its text says why, and what would be."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def check_sender(headers: Message, port: int) -> None:
    """Looks whether a request comes from a page of this server, or from no page at all.

    Raises:
        Refused: Its `Host` is not this server's address, as when a name of another site has been made to lead here
            ("DNS rebinding"); or its `Origin` is another site.
    """
    allowed = {f"{name}:{port}" for name in (HOST, "localhost")} | ({HOST, "localhost"} if port == 80 else set())
    hosts = [host.strip().lower() for host in headers.get_all("Host", [])]
    if len(hosts) != 1 or hosts[0] not in allowed:
        found = ", ".join(hosts)[:100] or "none"
        raise Refused(HTTPStatus.FORBIDDEN, f"the header Host is {found}; the address is http://{HOST}:{port}/")
    for origin in headers.get_all("Origin", []):
        if origin.strip().lower() not in {f"http://{name}" for name in allowed}:
            raise Refused(HTTPStatus.FORBIDDEN, f"sent by a page of {origin[:100]}; only this server's own page may")


def upload_length(headers: Message, limit: int = UPLOAD_LIMIT) -> int:
    """Returns how many bytes of an image follow the headers.

    Raises:
        Refused: They do not say, or say too many; or what follows is a form, with the image somewhere in it.
    """
    if headers.get_all("Transfer-Encoding"):
        raise Refused(HTTPStatus.LENGTH_REQUIRED, "chunked bodies are not read; send the header Content-Length")
    lengths = headers.get_all("Content-Length", [])
    if not lengths:
        raise Refused(HTTPStatus.LENGTH_REQUIRED, "send the header Content-Length and the bytes of one image")
    length = lengths[0].strip()
    if len(lengths) > 1 or not (length.isascii() and length.isdigit()):
        raise Refused(HTTPStatus.BAD_REQUEST, f"Content-Length is {', '.join(lengths)[:100]}, not one whole number")
    if len(length) > 15 or int(length) > limit:  # Python refuses to read thousands of digits
        raise Refused(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"{length[:20]} bytes are over {limit:,}; save the image smaller, or use: pipeline predict",
        )
    if headers.get("Content-Type", "").strip().lower().startswith("multipart/"):
        raise Refused(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "a form; send the image alone: curl --data-binary @photo.jpg ADDRESS"
        )
    return int(length)
