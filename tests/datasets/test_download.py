"""Downloads from a server on this machine that truncates, stalls, lies and redirects."""

import contextlib
import hashlib
import http.server
import multiprocessing
import os
import shutil
import ssl
import subprocess
import sys
import threading
import time
import zipfile

import numpy as np
import pytest

from gnn_mtl._core.errors import (
    DatasetNotFoundError,
    FileFormatError,
    StorageError,
    UsageError,
)
from gnn_mtl.datasets import _archive, _download, data_dir
from gnn_mtl.datasets._archive import extract_zip
from gnn_mtl.datasets._data_dir import is_offline
from gnn_mtl.datasets._download import download

CONTENT = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT; the path says in which wrong way."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.server.requests.append((self.path, dict(self.headers)))
        count = sum(path == self.path for path, _ in self.server.requests)
        getattr(self, f"serve_{self.path.strip('/').replace('-', '_')}")(count)

    def head(self, status=200, length=300_000, etag='"v1"', **more):
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        if etag:
            self.send_header("ETag", etag)
        for name, value in more.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def send(self, content):
        with contextlib.suppress(OSError):
            self.wfile.write(content)

    def send_rest(self, etag='"v1"', most=None):
        """Answer a Range request as a good server does."""
        start = 0
        if "Range" in self.headers and self.headers.get("If-Range") == etag:
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
        rest = CONTENT[start:]
        if start:
            span = f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"
            self.head(206, len(rest), etag, Content_Range=span)
        else:
            self.head(etag=etag)
        self.send(rest[:most])

    def serve_good(self, _):
        self.send_rest()

    def serve_truncated(self, count):
        self.send_rest(most=200_000 if count == 1 else None)

    def serve_hopeless(self, _):
        self.send_rest(most=10_000)

    def serve_stalls(self, count):
        if count > 1:
            self.send_rest()
        else:
            self.head()
            self.send(CONTENT[:50_000])
            self.server.released.wait(10)

    def serve_silent(self, _):
        self.server.released.wait(10)

    def serve_drips(self, _):
        self.head()
        while not self.server.released.wait(0.02):
            self.send(b"x")
            if len(self.server.requests) > 1:
                return

    def serve_changes(self, count):
        etag, most = ('"old"', 200_000) if count == 1 else ('"new"', None)
        self.send_rest(etag, most)

    def serve_unversioned(self, count):
        self.head(etag=None)
        self.send(CONTENT[: 100_000 if count == 1 else None])

    def serve_other_range(self, count):
        if count == 1:
            self.send_rest(most=200_000)
        else:
            self.head(206, 10, Content_Range=f"bytes 0-9/{len(CONTENT)}")
            self.send(CONTENT[:10])

    def serve_too_much(self, count):
        self.head(length=len(CONTENT) - 1000)
        self.send(CONTENT)

    def serve_huge(self, _):
        self.head(length=10**15)

    def serve_endless(self, _):
        self.head(length=None)
        for _ in range(100):
            self.send(CONTENT)

    def serve_zipped(self, _):
        self.head(Content_Encoding="gzip")
        self.send(CONTENT)

    def serve_missing(self, _):
        self.send_error(404)

    def serve_busy(self, count):
        self.send_error(503) if count == 1 else self.send_rest()

    def serve_redirected(self, _):
        self.head(302, 0, Location="/good")

    def serve_elsewhere(self, _):
        self.head(302, 0, Location=f"http://localhost:{self.server.server_port}/good")

    def serve_to_file(self, _):
        self.head(302, 0, Location="file:///etc/passwd")

    def serve_in_circles(self, _):
        self.head(302, 0, Location="/in-circles")


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(_download, "PLAIN_HTTP_HOSTS", frozenset({"127.0.0.1"}))
    monkeypatch.setattr(_download.time, "sleep", lambda _: None)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Server(("127.0.0.1", 0), Handler) as found:
        found.requests, found.released = [], threading.Event()
        found.url = f"http://127.0.0.1:{found.server_port}"
        threading.Thread(target=found.serve_forever, args=(0.01,), daemon=True).start()
        yield found
        found.released.set()
        found.shutdown()


@pytest.fixture
def fetch(server, tmp_path):
    """Return a function that fetches one of the server's paths."""

    def run(path, **options):
        options = {"max_bytes": 10**6, "timeout": 5.0} | options
        return download(f"{server.url}/{path}", tmp_path / "file.bin", **options)

    return run


def ranges(server):
    return [headers.get("Range") for _, headers in server.requests]


def files(folder):
    return sorted(path.name for path in folder.glob("[!.]*"))


def test_whole_files(fetch, server, tmp_path, caplog):
    caplog.set_level("INFO")
    assert fetch("good") == SHA256
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert files(tmp_path) == ["file.bin"]
    assert f"{server.url}/good (0.3 MB)" in caplog.text
    assert fetch("good", sha256=SHA256) == SHA256
    assert len(server.requests) == 1
    assert server.requests[0][1]["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("path", ["busy", "unversioned", "redirected"])
def test_files_that_come_in_the_end(path, fetch):
    assert fetch(path) == SHA256


def test_broken_off_downloads_go_on(fetch, server, tmp_path):
    assert fetch("truncated") == SHA256
    assert ranges(server) == [None, "bytes=200000-"]


def test_stalls_are_noticed(fetch, server):
    assert fetch("stalls", timeout=0.2) == SHA256
    assert ranges(server) == [None, "bytes=50000-"]
    server.requests.clear()


@pytest.mark.parametrize("path", ["silent", "drips"])
def test_servers_that_say_nothing(path, fetch):
    began = time.monotonic()
    with pytest.raises(DatasetNotFoundError, match="Expected to fetch"):
        fetch(path, timeout=0.2, attempts=2)
    assert time.monotonic() - began < 5


def test_what_has_come_is_kept_for_the_next_call(fetch, server, tmp_path):
    with pytest.raises(DatasetNotFoundError, match=r"20000 of 300000 bytes came.*0\.0 MB of it"):
        fetch("hopeless", attempts=2)
    assert files(tmp_path) == ["file.bin.part", "file.bin.part.json"]
    with pytest.raises(DatasetNotFoundError):
        fetch("hopeless", attempts=1)
    assert ranges(server) == [None, "bytes=10000-", "bytes=20000-"]
    assert fetch("good") == SHA256  # another address: from the start
    assert ranges(server)[-1] is None


def test_downloads_killed_at_the_very_end(fetch, server, tmp_path):
    with pytest.raises(DatasetNotFoundError):
        fetch("hopeless", attempts=1)
    (tmp_path / "file.bin.part").write_bytes(CONTENT)
    assert fetch("hopeless") == SHA256
    assert len(server.requests) == 1
    assert files(tmp_path) == ["file.bin"]


def test_beginnings_without_a_note_are_not_trusted(fetch, server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(b"x" * 500)
    (tmp_path / "file.bin.part.json").write_text("[]")
    assert fetch("good") == SHA256
    assert ranges(server) == [None]


def test_another_version_is_fetched_from_the_start(fetch, server):
    assert fetch("changes") == SHA256
    assert ranges(server) == [None, "bytes=200000-"]


def test_ranges_that_were_not_asked_for(fetch, tmp_path):
    with pytest.raises(DatasetNotFoundError, match="sent the range 'bytes 0-9/300000'"):
        fetch("other-range")
    assert (tmp_path / "file.bin.part").stat().st_size == 200_000


def test_lies_about_the_length_show_in_the_checksum(fetch, tmp_path):
    with pytest.raises(FileFormatError, match=SHA256):
        fetch("too-much", sha256=SHA256)
    assert files(tmp_path) == ["file.bin.part.json"]


def test_wrong_files_are_removed(fetch, tmp_path):
    (tmp_path / "file.bin").write_bytes(b"other")
    with pytest.raises(FileFormatError, match="was removed"):
        fetch("good", sha256=SHA256)
    assert fetch("good", sha256=SHA256) == SHA256


def test_limits(fetch, tmp_path):
    with pytest.raises(FileFormatError, match=r"at most 0\.1 MB. Found 0\.3 MB"):
        fetch("good", max_bytes=100_000)
    with pytest.raises(FileFormatError, match=r"1000000 bytes at most. More came"):
        fetch("endless")
    assert not (tmp_path / "file.bin").exists()
    with pytest.raises(StorageError, match="GB free"):
        fetch("huge", max_bytes=10**18)


@pytest.mark.parametrize("path", ["elsewhere", "to-file"])
def test_redirects_stay(path, fetch, server):
    with pytest.raises(DatasetNotFoundError, match=r"another host or not https|not allowed"):
        fetch(path)
    assert len(server.requests) == 1


def test_redirects_leave_the_host_only_with_a_checksum(fetch, monkeypatch):
    with pytest.raises(DatasetNotFoundError, match="not https"):
        fetch("elsewhere", sha256=SHA256)
    monkeypatch.setattr(_download, "PLAIN_HTTP_HOSTS", frozenset({"127.0.0.1", "localhost"}))
    with pytest.raises(DatasetNotFoundError, match="another host"):
        fetch("elsewhere")
    assert fetch("elsewhere", sha256=SHA256) == SHA256


@pytest.mark.parametrize(
    ("path", "reason"),
    [("missing", "404"), ("in-circles", "redirect"), ("zipped", "came as gzip")],
)
def test_refusals(path, reason, fetch):
    with pytest.raises(DatasetNotFoundError, match=reason):
        fetch(path)


def test_refusals_are_not_repeated(fetch, server):
    with pytest.raises(DatasetNotFoundError):
        fetch("missing")
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "url", ["http://example.org/x", "ftp://example.org/x", "file:///etc/passwd", "https:///x", "x"]
)
def test_other_addresses(url, tmp_path):
    with pytest.raises(UsageError, match="https://"):
        download(url, tmp_path / "x", max_bytes=10)
    assert not list(tmp_path.iterdir())


def test_nobody_answers(tmp_path, monkeypatch, server):
    server.server_close()
    with pytest.raises(DatasetNotFoundError, match="refused"):
        download(f"{server.url}/good", tmp_path / "x", max_bytes=10)


def test_places_that_cannot_be_written(fetch, server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="Expected to write"):
        download(f"{server.url}/good", tmp_path / "file" / "x", max_bytes=10**6)


def test_two_at_once_fetch_once(fetch, server):
    found = []
    threads = [threading.Thread(target=lambda: found.append(fetch("truncated"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [SHA256] * 3
    assert len(server.requests) == 2


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_killed_downloads_go_on(server, tmp_path):
    url, target = f"{server.url}/stalls", tmp_path / "file.bin"
    job = multiprocessing.get_context("fork").Process(
        target=download, args=(url, target), kwargs={"max_bytes": 10**6}
    )
    job.start()
    part, began = tmp_path / "file.bin.part", time.monotonic()
    while not (part.exists() and part.stat().st_size > 0) and time.monotonic() - began < 20:
        server.released.wait(0.02)
    job.kill()
    job.join()
    assert files(tmp_path) == ["file.bin.part", "file.bin.part.json"]
    assert download(url, target, max_bytes=10**6) == SHA256
    start = int(ranges(server)[-1].removeprefix("bytes=").rstrip("-"))
    assert 0 < start <= 50_000  # some of what was sent had been stored


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """A certificate for 127.0.0.1 that nobody trusts."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-keyout", "key.pem", "-out", "cert.pem", "-days", "2", "-subj",
         "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    return folder


def test_certificates_are_checked(server, certificate, tmp_path):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    url = server.url.replace("http://", "https://")
    with pytest.raises(DatasetNotFoundError, match="CERTIFICATE_VERIFY_FAILED"):
        download(f"{url}/good", tmp_path / "x", max_bytes=10**6)
    assert server.requests == []
    trusting = ssl.create_default_context(cafile=certificate / "cert.pem")
    options = {"max_bytes": 10**6, "context": trusting}
    assert download(f"{url}/good", tmp_path / "x", **options) == SHA256
    wrong_name = url.replace("127.0.0.1", "localhost")
    with pytest.raises(DatasetNotFoundError, match="CERTIFICATE_VERIFY_FAILED"):
        download(f"{wrong_name}/good", tmp_path / "y", **options)
    with pytest.raises(DatasetNotFoundError, match=r"redirect to http://localhost"):
        download(f"{url}/elsewhere", tmp_path / "y", **options)


# Archives


def make_zip(path, *members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content, *change in members:
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            for attribute, value in change:
                setattr(info, attribute, value)
            archive.writestr(info, content)
    return path


def test_archives(tmp_path):
    path = make_zip(
        tmp_path / "a.zip", ("top/", ""), ("top/raw/x.csv", "1,2\n"), ("top/empty/", ""),
        ("top/y", b"\0" * 1000),
    )  # fmt: skip
    extract_zip(path, tmp_path / "out", max_bytes=2000)
    found = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*")}
    assert found == {"raw", "raw/x.csv", "y"}
    assert (tmp_path / "out" / "raw" / "x.csv").read_text() == "1,2\n"
    with pytest.raises(UsageError, match="move it away"):
        extract_zip(path, tmp_path / "out", max_bytes=2000)


LINK = ("external_attr", 0o120777 << 16)
HOSTILE = {
    "up": ([("top/x", ""), ("top/../../evil", "")], "leads elsewhere"),
    "up at once": ([("../evil", "")], "leads elsewhere"),
    "absolute": ([("/tmp/evil", "")], "leads elsewhere"),  # noqa: S108
    "backslashes": ([("top\\..\\evil", "")], "leads elsewhere"),
    "a drive": ([("C:/evil", "")], "leads elsewhere"),
    "a link": ([("top/x", "/etc/passwd", LINK)], "link"),
    "a pipe": ([("top/x", "", ("external_attr", 0o010644 << 16))], "link or a device"),
    "two folders": ([("top/x", ""), ("other/y", "")], "2 folders"),
    "no folder": ([("x", "")], "below one folder"),
    "a file and a folder of one name": ([("top", ""), ("top/x", "")], "below one folder"),
    "one name twice": ([("top/X", "1"), ("top/x", "2")], "each once"),
    "nothing": ([], "one folder"),
    "only folders": ([("top/", "")], "one folder"),
    "large": ([("top/x", b"\0" * 6000)], "unpack to at most"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_archives(what, tmp_path):
    members, message = HOSTILE[what]
    path = make_zip(tmp_path / "a.zip", *members)
    with pytest.raises(FileFormatError, match=message):
        extract_zip(path, tmp_path / "folder" / "out", max_bytes=5000)
    assert not (tmp_path / "folder").exists()
    assert not list(tmp_path.rglob("evil"))


def test_bombs(tmp_path, monkeypatch):
    monkeypatch.setattr(_archive, "HIGHEST_RATIO", 3)
    path = make_zip(tmp_path / "a.zip", ("top/x", b"\0" * (4 << 20)))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(FileFormatError, match="3 times its own size"):
        extract_zip(path, tmp_path / "out", max_bytes=10**12)
    monkeypatch.setattr(_archive, "MOST_MEMBERS", 3)
    path = make_zip(tmp_path / "b.zip", *((f"top/{k}", "") for k in range(4)))
    with pytest.raises(FileFormatError, match="at most 3 files"):
        extract_zip(path, tmp_path / "out", max_bytes=10**12)
    assert files(tmp_path) == ["a.zip", "b.zip"]


def test_sizes_that_are_lies(tmp_path):
    """A member that holds more than its header says is cut by zipfile and fails its checksum."""
    path = make_zip(tmp_path / "a.zip", ("top/x", os.urandom(5000)))
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = content.index(signature) + offset
        content[at : at + 4] = (100).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match="whole zip"):
        extract_zip(path, tmp_path / "out", max_bytes=5000)
    assert files(tmp_path) == ["a.zip"]


@pytest.mark.parametrize("damage", ["cut", "flip", "text", "encrypted"])
def test_damaged_archives(damage, tmp_path):
    path = make_zip(tmp_path / "a.zip", ("top/x", os.urandom(5000)))
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[:2000]
    elif damage == "flip":
        content[1000] ^= 0xFF
    elif damage == "text":
        content = b"<html>Not found</html>"
    else:
        content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match=r"whole zip|encrypted"):
        extract_zip(path, tmp_path / "out", max_bytes=10_000)
    assert files(tmp_path) == ["a.zip"]


def test_no_room_to_unpack(tmp_path, monkeypatch):
    path = make_zip(tmp_path / "a.zip", ("top/x", os.urandom(5000)))
    monkeypatch.setattr(_archive, "_free", lambda _: 100)
    with pytest.raises(StorageError, match="GB free"):
        extract_zip(path, tmp_path / "out", max_bytes=10_000)


# Where


def test_the_data_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("GNN_MTL_DATA", str(tmp_path))
    assert data_dir() == tmp_path
    monkeypatch.delenv("GNN_MTL_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert data_dir().name == "gnn-mtl"
    if sys.platform == "linux":
        assert data_dir() == tmp_path / "cache" / "gnn-mtl"
    for value, wanted in (("", False), ("0", False), ("1", True)):
        monkeypatch.setenv("GNN_MTL_NO_DOWNLOAD", value)
        assert is_offline() is wanted
