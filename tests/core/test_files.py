"""Files are whole or absent."""

import errno
import hashlib
import json
import os
import resource
import stat
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gnn_mtl._core import files
from gnn_mtl._core.errors import StorageError
from gnn_mtl._core.files import atomic_path, finite, sha256, write_json, write_text


@contextmanager
def full_disk(size):
    """Let the system refuse files above ``size`` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(params=["new", "old"])
def target(request, tmp_path):
    """A path that is absent, or holds "before"."""
    path = tmp_path / "folder" / "file.txt"
    if request.param == "old":
        path.parent.mkdir()
        path.write_text("before")
    return path


def unchanged(path, existed):
    """Whether the path is as before and nothing else lies beside it."""
    names = [file.name for file in path.parent.iterdir()]
    return (names == [path.name] and path.read_text() == "before") if existed else names == []


def test_a_block_that_succeeds_replaces_the_file(target):
    with atomic_path(target) as temporary:
        assert temporary.parent == target.parent
        assert temporary.suffix == ".txt"
        temporary.write_text("after")
        assert not target.exists() or target.read_text() == "before"
    assert target.read_text() == "after"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_block_that_fails_changes_nothing(error, target):
    existed = target.exists()
    with pytest.raises(error), atomic_path(target) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise error
    assert unchanged(target, existed)


def test_a_full_disk_changes_nothing(target):
    existed = target.exists()
    with full_disk(1000), pytest.raises(StorageError, match=r"file\.txt.*File too large") as caught:
        write_text(target, "x" * 10_000)
    assert unchanged(target, existed)
    assert "nothing half-written" in str(caught.value)
    assert caught.value.__cause__.errno == errno.EFBIG
    write_text(target, "after")
    assert target.read_text() == "after"


@pytest.mark.parametrize("call", ["fsync", "chmod", "mkstemp"])
def test_whatever_the_system_refuses_is_a_storage_error(call, target, monkeypatch):
    existed = target.exists()

    def refuse(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    owner = {"fsync": files.os, "chmod": files.Path, "mkstemp": files.tempfile}[call]
    with monkeypatch.context() as patch:
        patch.setattr(owner, call, refuse)
        with pytest.raises(StorageError, match="No space left"):
            write_text(target, "after")
    assert unchanged(target, existed)


def test_a_place_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"file/below.*File exists"):
        write_text(tmp_path / "file" / "below", "text")
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    with pytest.raises(StorageError, match="directory"):
        write_text(tmp_path / "folder", "text")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "folder"]


def test_the_umask_decides_who_may_read(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "file", "text")
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_json_has_no_nan(tmp_path):
    value = {"a": [1, float("nan"), {"b": float("-inf")}], 3: (1.5, "é"), "none": None, "yes": True}
    write_json(tmp_path / "v.json", value)
    text = (tmp_path / "v.json").read_text(encoding="utf-8")
    assert text.endswith("\n")
    assert json.loads(text, parse_constant=pytest.fail) == {
        "a": [1, None, {"b": None}], "3": [1.5, "é"], "none": None, "yes": True,
    }  # fmt: skip


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@settings(max_examples=50)
@given(JSON)
def test_finite_is_always_json_and_keeps_what_is_finite(value):
    kept = finite(value)
    text = json.dumps(kept, allow_nan=False)
    assert finite(kept) == kept
    assert json.loads(text) == kept


def test_sha256_reads_in_blocks(tmp_path):
    content = np.random.default_rng(0).bytes((1 << 20) + 17)
    (tmp_path / "file").write_bytes(content)
    assert sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()
    (tmp_path / "empty").write_bytes(b"")
    assert sha256(tmp_path / "empty") == hashlib.sha256().hexdigest()
