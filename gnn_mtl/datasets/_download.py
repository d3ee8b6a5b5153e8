"""``download``: one file over https, resumed where it broke off, whole or not there at all."""

from __future__ import annotations

import http.client
import json
import logging
import os
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from gnn_mtl._core.errors import DatasetNotFoundError, FileFormatError, StorageError, UsageError
from gnn_mtl._core.files import sha256 as sha256_of
from gnn_mtl._core.files import write_json
from gnn_mtl._core.progress import Progress
from gnn_mtl.datasets._data_dir import locked, writing

logger = logging.getLogger("gnn_mtl")

PLAIN_HTTP_HOSTS: frozenset[str] = frozenset()
"""Hosts that may be asked without TLS: none; the tests put 127.0.0.1 here."""

BLOCK = 1 << 16
SLOWEST = 1 << 10
"""Fewer bytes a second than this over the timeout count as a stall."""


class _BrokenOffError(Exception):
    """The connection failed in a way that trying again may mend."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects that stay on https and, unless the content is known, on the host."""

    def __init__(self, any_host: bool) -> None:
        self._any_host = any_host

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        old, new = urlsplit(req.full_url), urlsplit(newurl)
        if not _is_allowed(newurl) or not (self._any_host or old.hostname == new.hostname):
            raise DatasetNotFoundError(
                f"{req.full_url} should send the file itself. Found a redirect to {newurl}, which "
                "is another host or not https, and no checksum is known. Fetch it by hand if you "
                "trust that place."
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def download(
    url: str,
    target: str | os.PathLike[str],
    *,
    max_bytes: int,
    sha256: str | None = None,
    timeout: float = 30.0,
    attempts: int = 4,
    context: ssl.SSLContext | None = None,
) -> str:
    """Fetch ``url`` to ``target`` and return the SHA-256 of what came.

    The size is logged before anything is stored. What has come so far stays in ``TARGET.part`` and
    is taken up again if the server still has the same version; ``target`` itself appears only when
    whole, flushed to disk, and only one process at a time works on it.

    Args:
        url: An https address. Certificates are checked; proxies of the environment are used.
        target: File to write; if it exists it is not fetched again.
        max_bytes: Refuse anything larger.
        sha256: What the content should be, if known; only then may a redirect leave the host.
        timeout: Seconds without an answer, or near to none, before trying again.
        attempts: How often to try, each time going on where the last one broke off.
        context: TLS settings; by default the system's certificates.

    Raises:
        UsageError: If the address is not https.
        DatasetNotFoundError: If the file cannot be had: no network, refused, broken off too often.
        FileFormatError: If it is too large, or not what the checksum says.
        StorageError: If the disk is full or not writable.
    """
    target = Path(target)
    if not _is_allowed(url):
        raise UsageError(f"Downloads should come from an https:// address. Found {url!r}.")
    with locked(target):
        if not target.exists():
            part = target.with_name(f"{target.name}.part")
            opener = _make_opener(context, any_host=sha256 is not None)
            _fetch_part(opener, url, part, max_bytes, timeout, attempts)
            _check_sum(part, sha256, url)
            _finish(part, target)
        return _check_sum(target, sha256, url)


def _fetch_part(
    opener: urllib.request.OpenerDirector,
    url: str,
    part: Path,
    max_bytes: int,
    timeout: float,
    attempts: int,
) -> None:
    """Make ``part`` whole, in several attempts."""
    reason: Exception | None = None
    for attempt in range(attempts):
        if attempt:
            logger.info("trying %s again: %s", url, reason)
            time.sleep(min(0.1 * 2**attempt, timeout))
        try:
            with writing(part):
                return _attempt(opener, url, part, max_bytes, timeout)
        except urllib.error.HTTPError as error:
            error.close()
            reason = error
            if error.code < 500 and error.code not in (408, 416, 429):
                break
        except (_BrokenOffError, http.client.HTTPException, urllib.error.URLError) as error:
            reason = error
            if isinstance(getattr(error, "reason", None), ssl.SSLCertVerificationError):
                break
    have = part.stat().st_size if part.exists() else 0
    kept = f" {have / 1e6:.1f} MB of it are kept in {part}; call again to go on." if have else ""
    raise DatasetNotFoundError(f"Expected to fetch {url}. Found: {reason}.{kept}") from reason


def _attempt(
    opener: urllib.request.OpenerDirector, url: str, part: Path, max_bytes: int, timeout: float
) -> None:
    start, version, whole = _resumable(part, url)
    if start == whole and start <= max_bytes:
        return
    headers = {"Accept-Encoding": "identity", "User-Agent": "gnn-mtl"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": str(version)}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310
    try:
        response = opener.open(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code == 416:
            part.unlink(missing_ok=True)
        raise
    except (TimeoutError, ConnectionError) as error:
        raise _BrokenOffError(str(error) or type(error).__name__) from error
    with response:
        start, total = _declared(response.status, response.headers, start)
        _check_room(url, part, start, total, max_bytes)
        if start == 0:
            _note(part, url, response.headers, total)
        size = f"{total / 1e6:.1f} MB" if total is not None else "unknown size"
        logger.info("fetching %s (%s) to %s", url, size, part.parent)
        have = _copy(response, part, start, total, max_bytes, timeout)
    if total is not None and have != total:
        raise _BrokenOffError(f"{have} of {total} bytes came")


def _copy(
    response: Any,  # noqa: ANN401
    part: Path,
    start: int,
    total: int | None,
    max_bytes: int,
    timeout: float,
) -> int:
    """Append what comes to ``part``; return how long it is now."""
    have, since, counted = start, time.monotonic(), start
    expected = None if total is None else total >> 20
    with part.open("r+b" if start else "wb") as file, Progress("fetching (MB)", expected) as bar:
        file.seek(start)
        while True:
            try:
                block = response.read1(BLOCK)
            except (OSError, http.client.HTTPException) as error:
                raise _BrokenOffError(str(error) or type(error).__name__) from error
            if not block:
                return have
            have += len(block)
            if have > (max_bytes if total is None else total):
                file.truncate(0)
                raise FileFormatError(
                    f"{part.stem} should have {total or max_bytes} bytes at most. More came."
                )
            file.write(block)
            bar.advance((have >> 20) - ((have - len(block)) >> 20))
            if time.monotonic() - since > timeout:
                if have - counted < SLOWEST * timeout:
                    raise _BrokenOffError(f"stalled at {have} bytes")
                since, counted = time.monotonic(), have


def _declared(status: int, headers: http.client.HTTPMessage, start: int) -> tuple[int, int | None]:
    """Return (first byte, whole length) of an answer."""
    if headers.get("Content-Encoding", "identity") != "identity":
        raise _BrokenOffError(f"the content came as {headers['Content-Encoding']}")
    if status == 206:
        unit, _, rest = headers.get("Content-Range", "").partition(" ")
        span, _, whole = rest.partition("/")
        first = span.partition("-")[0]
        if unit != "bytes" or first != str(start) or not whole.isdecimal():
            raise _BrokenOffError(f"the server sent the range {headers.get('Content-Range')!r}")
        return start, int(whole)
    length = headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() else None


def _check_room(url: str, part: Path, start: int, total: int | None, max_bytes: int) -> None:
    if total is None:
        return
    if total > max_bytes:
        raise FileFormatError(
            f"{url} should have at most {max_bytes / 1e6:.1f} MB. Found {total / 1e6:.1f} MB. "
            "Raise the limit if that is right."
        )
    free = shutil.disk_usage(part.parent).free
    if total - start > free:
        raise StorageError(
            f"{url} needs {(total - start) / 1e9:.2f} GB in {part.parent}. Found {free / 1e9:.2f} "
            "GB free. Free space or choose another place."
        )


def _note(part: Path, url: str, headers: http.client.HTTPMessage, total: int | None) -> None:
    """Write down which version of the file ``part`` is the beginning of."""
    version = headers.get("ETag", "")
    if version.startswith("W/") or not version:
        version = headers.get("Last-Modified", "")
    write_json(_note_file(part), {"url": url, "version": version, "bytes": total})


def _note_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _resumable(part: Path, url: str) -> tuple[int, str, int | None]:
    """Return how much has come of which version, and its length; 0 if it cannot be gone on with."""
    try:
        note = json.loads(_note_file(part).read_text(encoding="utf-8"))
        have = part.stat().st_size
    except (OSError, ValueError):
        return 0, "", None
    if not isinstance(note, Mapping) or note.get("url") != url or not note.get("version"):
        return 0, "", None
    return have, str(note["version"]), note.get("bytes")


def _check_sum(path: Path, wanted: str | None, url: str) -> str:
    found = sha256_of(path)
    if wanted is not None and found != wanted:
        path.unlink()
        raise FileFormatError(
            f"{url} should have the SHA-256 {wanted}. Found {found}; the file was removed. "
            "Try again, or ask where the right version is."
        )
    return found


def _finish(part: Path, target: Path) -> None:
    with writing(target):
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(target)
        _note_file(part).unlink(missing_ok=True)
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _make_opener(
    context: ssl.SSLContext | None, *, any_host: bool
) -> urllib.request.OpenerDirector:
    context = context or ssl.create_default_context()
    return urllib.request.build_opener(
        urllib.request.HTTPSHandler(context=context), _Redirects(any_host)
    )


def _is_allowed(url: str) -> bool:
    parts = urlsplit(url)
    return bool(parts.hostname) and (
        parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in PLAIN_HTTP_HOSTS)
    )
