"""Images and exports that URLs name: S3, Google's storage and whatever else fsspec has a file system for."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.errors import DataError, ExportError, PipelineError, one_line
from pipeline.images.headers import BYTE_LIMIT, SUFFIXES, too_large

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")

_MAGIC = re.compile(r"[*?[]")


def place_of(name: str) -> Path | str:
    """Returns what a name stands for: a path, or a URL, which stays a string since `Path` would drop a slash of it."""
    return name if _SCHEME.match(name) else Path(name)


def kind_of(url: str) -> str | None:
    """Returns what a URL names, `file` or `directory`, and None where there is nothing.

    Raises:
        DataError: Its storage cannot be asked.
    """
    files, path = _open(url)
    try:
        kind: str = files.info(path)["type"]
        return kind
    except FileNotFoundError:
        return None
    except Exception as error:  # each storage's client has its own
        raise _unreachable(url, error) from error


def walk_url(url: str) -> Iterator[str]:
    """Yields the image files below a folder, sorted; nothing hidden.

    Raises:
        DataError: A folder cannot be listed.
    """
    files, folder = _open(url)
    try:
        entries = files.ls(folder, detail=True)
        files.invalidate_cache()  # what has been walked is not kept: there may be millions
    except Exception as error:  # as above
        raise _unreachable(url, error) from error
    # An object store may hold an object with the name of the folder itself.
    paths = {entry["name"].rstrip("/"): entry["type"] for entry in entries}
    paths.pop(folder.rstrip("/"), None)
    for path, kind in sorted(paths.items()):
        name = path.rpartition("/")[2]
        if name.startswith("."):
            continue
        if kind == "directory":
            yield from walk_url(f"{url.rstrip('/')}/{name}")
        elif os.path.splitext(name)[1].lower() in SUFFIXES:
            yield f"{url.rstrip('/')}/{name}"


def match_urls(pattern: str) -> Iterator[str]:
    """Yields the image files that a pattern matches, sorted; hidden ones only where the pattern has the dot.

    Raises:
        DataError: The storage cannot be asked.
    """
    magic = _MAGIC.search(pattern)
    if magic is None:
        return
    above = pattern[: pattern.rindex("/", 0, magic.start()) + 1]  # whole parts before the first that is a pattern
    (files, path), (_, folder) = _open(pattern), _open(above)
    try:
        found = files.glob(path, detail=True)
    except Exception as error:  # as above
        raise _unreachable(pattern, error) from error
    for name, entry in sorted(found.items()):
        rest = name[len(folder.rstrip("/")) :].lstrip("/")
        hidden = f"/{rest}".count("/.") > pattern.count("/.")
        if not hidden and entry["type"] == "file" and os.path.splitext(name)[1].lower() in SUFFIXES:
            yield above + rest


def read_url(url: str) -> bytes:
    """Returns a file's bytes.

    Raises:
        DataError: The reason why this file cannot be read: it is not there, not open to us, or too large for an image.
        PipelineError: The storage does not answer, which says nothing about this file.
    """
    files, path = _open(url)
    try:
        size = files.size(path) or 0
        if size > BYTE_LIMIT:
            raise DataError(too_large(size))
        contents: bytes = files.cat_file(path)
        return contents
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        # In the words of a local file. Clients often raise these without a number.
        reason = os.strerror(error.errno) if error.errno else _REASONS[type(error)]
        raise DataError(f"cannot be read: {reason}") from error
    except DataError:
        raise
    except Exception as error:  # as above
        raise _unreachable(url, error, PipelineError) from error


@contextmanager
def export_folder(place: Path | str) -> Iterator[Path]:
    """Yields an export's folder on this machine; what a URL names is fetched, and is gone after the block.

    Raises:
        ExportError: The URL names no export.
    """
    if isinstance(place, Path):
        yield place
        return
    url = place.rstrip("/")
    if kind_of(f"{url}/saved_model.pb") != "file":
        raise ExportError(f"{place} holds no saved_model.pb; name an export folder such as s3://bucket/NAME/export")
    files, root = _open(url)
    with tempfile.TemporaryDirectory(prefix="export-") as folder:
        try:
            for path in files.find(root):
                target = Path(folder, path[len(root) :].lstrip("/"))
                target.parent.mkdir(parents=True, exist_ok=True)
                files.get_file(path, str(target))
        except Exception as error:  # as above
            raise _unreachable(url, error) from error
        yield Path(folder)


_REASONS: dict[type[OSError], str] = {
    FileNotFoundError: "No such file or directory",
    IsADirectoryError: "Is a directory",
    PermissionError: "Permission denied",
}


def _unreachable(url: str, error: Exception, kind: type[PipelineError] = DataError) -> PipelineError:
    return kind(f"{url} cannot be read ({one_line(error)}); check its name, the network and your access")


def _open(url: str) -> tuple[Any, str]:
    """Returns the file system of a URL and the path in it.

    Raises:
        DataError: Its client is not installed, or nobody knows the scheme.
    """
    import fsspec
    from fsspec.registry import known_implementations

    scheme = url.partition("://")[0]
    try:
        files, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        package = known_implementations.get(scheme, {}).get("class", "").partition(".")[0]
        advice = one_line(error) if package in ("", "fsspec") else f"pip install {package}"
        raise DataError(f"{url}: {scheme}:// needs a package that is not installed; {advice}") from error
    except ValueError as error:
        raise DataError(
            f"{url}: fsspec knows no {scheme}://; allowed are paths, s3://, gs:// and others of it"
        ) from error
    return files, path
