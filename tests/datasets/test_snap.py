"""SNAP's text files: what is read, how they can be broken, how large they may be."""

import gzip
import importlib.util
import io
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gnn_mtl._core.errors import (
    DataError,
    DatasetNotFoundError,
    FileFormatError,
    GraphError,
    LabelError,
    LabelWarning,
    UsageError,
)
from gnn_mtl.datasets import (
    _snap,
    _snap_text,
    fetch_snap,
    import_any,
    import_snap,
    load_dataset,
    load_snap,
    verify,
)
from gnn_mtl.datasets._snap import SNAP_SETS, is_snap
from gnn_mtl.datasets._snap_text import read_communities, read_edges

SCRIPT = Path(__file__).parents[1] / "miniatures" / "make_snap.py"
SPEC = importlib.util.spec_from_file_location("make_snap", SCRIPT)
make_snap = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(make_snap)

pytestmark = pytest.mark.filterwarnings("ignore:.*repeat others member for member:UserWarning")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GNN_MTL_DATA", str(tmp_path / "cache"))
    monkeypatch.setenv("GNN_MTL_NO_DOWNLOAD", "1")
    return tmp_path / "cache"


@pytest.fixture
def mini(tmp_path):
    """The folder of the miniature."""
    make_snap.make_mini(tmp_path / "com-mini")
    return tmp_path / "com-mini"


def by_hand(path):
    """Return (edges of node numbers, ids) read line by line."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt") as file:
        pairs = [tuple(map(int, line.split())) for line in file if not line.startswith("#")]
    ids = sorted({node for pair in pairs for node in pair})
    number = {node: k for k, node in enumerate(ids)}
    return [(number[u], number[v]) for u, v in pairs], ids


def pairs_of(edges):
    return [pair for u, v in edges.chunks() for pair in zip(u.tolist(), v.tolist(), strict=True)]


# What is read


@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize("size", [7, 1 << 22])
def test_edges_are_those_of_the_file(tmp_path, monkeypatch, end, size):
    monkeypatch.setattr(_snap_text, "BYTES_AT_ONCE", size)
    monkeypatch.setattr(_snap_text, "EDGES_AT_ONCE", 100)
    edges, communities = make_snap.make_mini(tmp_path / "mini", end=end)
    path = tmp_path / "mini" / f"com-mini.ungraph.txt{end}"
    found = read_edges(path, tmp_path / "out")
    wanted, ids = by_hand(path)
    assert pairs_of(found) == wanted
    assert pairs_of(found) == wanted  # again
    assert (found.num_edges, found.ids.tolist()) == (len(edges), ids)
    lists = read_communities(path.with_name(f"com-mini.top5000.cmty.txt{end}"), found.ids)
    assert [found.ids[lists[row]].tolist() for row in range(len(lists))] == communities


@pytest.mark.parametrize(
    "text",
    [
        "1\t2\n3\t4\n",
        "1 2\r\n3   4\r\n",
        "1\t2\n3\t4",
        "\n1\t2\n\n3\t4\n\n",
        "# c\n1\t2\n# Nodes: 9 Edges: 9 is not at the top\n3\t4\n#",
        "# Nodes: 4 Edges: 2\n\t1\t2 \n03\t0004\n",
    ],
)
def test_forms_of_lines(tmp_path, text):
    make_snap.write(tmp_path / "a.ungraph.txt", text)
    found = read_edges(tmp_path / "a.ungraph.txt", tmp_path / "out")
    assert found.ids.tolist() == [1, 2, 3, 4]
    assert pairs_of(found) == [(0, 1), (2, 3)]


def test_several_gzip_members(tmp_path):
    packed = gzip.compress(b"1\t2\n3") + gzip.compress(b"\t4\n")
    (tmp_path / "a.ungraph.txt.gz").write_bytes(packed)
    found = read_edges(tmp_path / "a.ungraph.txt.gz", tmp_path / "out")
    assert found.ids.tolist() == [1, 2, 3, 4]


def test_the_largest_ids(tmp_path):
    last = 2**31 - 2
    make_snap.write(tmp_path / "a.ungraph.txt", f"0\t{last}\n5\t0\n")
    found = read_edges(tmp_path / "a.ungraph.txt", tmp_path / "out")
    assert found.ids.tolist() == [0, 5, last]
    assert pairs_of(found) == [(0, 2), (1, 0)]


def test_members_are_sorted_and_counted_once(tmp_path):
    make_snap.write(tmp_path / "c.txt", "7\t5\t7\n5\n\n9 7\t5")
    lists = read_communities(tmp_path / "c.txt", np.array([5, 7, 9], dtype=np.int32))
    assert [lists[row].tolist() for row in range(len(lists))] == [[0, 1], [0], [0, 1, 2]]
    assert lists.sizes.tolist() == [2, 1, 3]


@settings(max_examples=60, deadline=None)
@given(
    lists=st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=9), min_size=1, max_size=9),
    size=st.integers(1, 20),
)
def test_any_lists_in_any_blocks(tmp_path_factory, lists, size):
    path = tmp_path_factory.mktemp("lists") / "c.txt"
    make_snap.write(path, make_snap.community_text(lists))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_snap_text, "BYTES_AT_ONCE", size)
        found = read_communities(path, np.arange(51, dtype=np.int32))
    assert [found[row].tolist() for row in range(len(found))] == [sorted(set(m)) for m in lists]


# Broken files

BROKEN = {
    "no edges": (FileFormatError, r"com-mini should hold SNAP's edges"),
    "no communities": (FileFormatError, r"beside com-mini.*top5000"),
    "fewer edges": (FileFormatError, r"holds 400 nodes and (\d+) edges. Found 400 and \d+\."),
    "more edges": (FileFormatError, r"Found 400 and \d+ or more"),
    "other nodes": (FileFormatError, r"400 nodes and \d+ edges. Found 402 and"),
    "truncated": (FileFormatError, "ended before"),
    "truncated checksum": (FileFormatError, "whole file"),
    "truncated communities": (FileFormatError, "ended before"),
    "damaged in the middle": (FileFormatError, r"whole file|node ids and white space|ids in each"),
    "an extra column": (FileFormatError, r"2 ids in each line\. Found 3 in line 8"),
    "a column less": (FileFormatError, "Found 1 in line 5"),
    "text": (FileFormatError, "'x' in line 6"),
    "fractions": (FileFormatError, r"'\.' in line 5"),
    "commas": (FileFormatError, "',' in line 5"),
    "a comment behind": (FileFormatError, "'#' in line 5"),
    "not UTF-8": (FileFormatError, "byte 0xff in line 5"),
    "binary": (FileFormatError, "byte 0x00 in line 1"),
    "negative ids": (GraphError, "a negative one in line 5"),
    "huge ids": (GraphError, "2147483647 or more in line 5"),
    "hopeless ids": (GraphError, "or more in line 5"),
    "a huge size": (FileFormatError, "header says 99999999999999 nodes"),
    "a hopeless size": (FileFormatError, r"fewer than 2\*\*31 nodes"),
    "a huge number of edges": (FileFormatError, r"99999999999 edges\. Found 400"),
    "comments only": (FileFormatError, r"hold edges.*Found none"),
    "an empty file": (FileFormatError, r"hold edges.*Found none"),
    "empty edges": (FileFormatError, r"hold edges.*Found none"),
    "empty communities": (FileFormatError, r"hold communities.*Found none"),
    "unknown members": (LabelError, r"2 memberships of others.*node 1999 in community 4"),
    "text among members": (FileFormatError, "'a' in line 3"),
    "negative members": (GraphError, "negative one in line 3"),
    "huge members": (GraphError, "or more in line 1"),
    "binary communities": (FileFormatError, "byte 0x00 in line 1"),
}


@pytest.mark.parametrize("what", make_snap.BROKEN)
def test_broken_files(what, mini, cache):
    make_snap.BROKEN[what](mini)
    error, message = BROKEN[what]
    for read in (import_snap, load_dataset):
        with pytest.raises(error, match=message) as caught:
            read(mini)
        assert str(mini) in str(caught.value)
    left = cache.rglob("*") if cache.exists() else []
    assert all(path.is_dir() or path.suffix == ".lock" for path in left)
    assert not list(cache.glob("converted/[!.]*"))


@pytest.mark.parametrize("what", ["text", "fewer edges", "an empty file", "negative ids"])
def test_broken_plain_files(what, tmp_path):
    make_snap.make_mini(tmp_path / "com-mini", end="")
    make_snap.BROKEN[what](tmp_path / "com-mini")
    with pytest.raises(BROKEN[what][0], match=BROKEN[what][1]):
        import_snap(tmp_path / "com-mini")


def test_a_bomb_is_not_unpacked_at_once(tmp_path):
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb") as file:
        file.write(b"# Nodes: 2 Edges: 1\n")
        for _ in range(64):
            file.write(b"1\t2\n" * (1 << 18))
    (tmp_path / "a.ungraph.txt.gz").write_bytes(buffer.getvalue())
    with pytest.raises(FileFormatError, match="or more"):
        read_edges(tmp_path / "a.ungraph.txt.gz", tmp_path / "out")
    assert (tmp_path / "out").stat().st_size < 3 * _snap_text.BYTES_AT_ONCE


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_files_raise_only_typed_errors(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("fuzz")
    plain = make_snap.edge_text([[1, 2], [2, 3], [3, 70]]).encode()
    is_packed = data.draw(st.booleans())
    content = bytearray(gzip.compress(plain) if is_packed else plain)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    (folder / "a.ungraph.txt").write_bytes(content)
    try:
        found = read_edges(folder / "a.ungraph.txt", folder / "out")
    except DataError:
        return
    assert found.num_edges == sum(len(u) for u, _ in found.chunks())


# Finding, converting once


def test_paths(mini, tmp_path):
    wanted = import_snap(mini).fingerprint()
    for place in (mini, str(mini), mini / "com-mini.ungraph.txt.gz"):
        assert load_dataset(place).fingerprint() == wanted
    assert is_snap(mini)
    assert not is_snap(tmp_path)
    assert not is_snap(mini / "nothing")
    assert load_dataset("com-mini", root=tmp_path).fingerprint() == wanted
    make_snap.make_mini(mini, stem="com-other", seed=1)
    with pytest.raises(UsageError, match=r"several sets: com-mini, com-other.*com-mini\.ungraph"):
        load_dataset(mini)
    assert import_snap(mini / "com-other.ungraph.txt.gz").fingerprint() != wanted
    with pytest.raises(FileFormatError, match="should hold SNAP's edges"):
        import_snap(tmp_path)


def test_names_and_options(tmp_path):
    make_snap.make_mini(tmp_path / "com-lj", stem="com-lj")
    graph = load_dataset("snap-livejournal:k=4,graph=full,distinct=0", tmp_path)
    same = load_snap("snap-livejournal", tmp_path, k=4, graph="full", distinct=False)
    assert graph.fingerprint() == same.fingerprint()
    assert (graph.name, graph.num_nodes, graph.num_tasks) == ("snap-livejournal", 400, 4)
    assert graph.extras["snap"]["version"] == "v2"
    other = load_dataset("snap-livejournal:k=4,version=v1", tmp_path / "com-lj")
    assert other.extras["snap"]["version"] == "v1"
    assert other.num_nodes < 400
    for text, message in {
        "snap-livejournal:size=3": r"Arguments of snap-livejournal",
        "snap-livejournal:k=0": r"`k` should be a whole number from 1\. Found 0",
        "snap-livejournal:k=2.5": r"`k` should be a whole number",
        "snap-livejournal:graph=half": r"`graph` should be induced or full\. Found 'half'",
        "snap-livejournal:version=v4": r"`version` should be paper or v1",
        "snap-livejournal:distinct=3": r"`distinct` should be 0 or 1",
        "snap-livejournal:masks=shared,version=v1": "one split for all",
        "snap-livejournal:background=negative": "use graph='full'",
        "snap-livejournal:seed=-1": "`seed` should be a whole number from 0",
    }.items():
        with pytest.raises(UsageError, match=message):
            load_dataset(text, tmp_path)
    with pytest.raises(UsageError, match=r"'distnct'\. Did you mean distinct"):
        load_snap("snap-livejournal", tmp_path, distnct=True)
    with pytest.raises(UsageError, match=r"SNAP's sets are snap-amazon.*'snap-nothing'"):
        load_snap("snap-nothing")


def test_converted_once_and_nothing_written_to_the_source(mini, cache, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in mini.rglob("*")}
    first = import_snap(mini)
    import_snap(mini, k=3)
    monkeypatch.setattr(_snap, "read_edges", None)
    again = import_snap(mini)
    assert again.fingerprint() == first.fingerprint()
    assert isinstance(again.csc.indices, np.memmap)
    assert {path: path.stat().st_mtime_ns for path in mini.rglob("*")} == before
    made = sorted((cache / "converted").glob("com_mini-*"))
    assert len(made) == 2
    assert [verify(folder) for folder in made] == [[], []]


def test_options_reach_a_folder_however_it_is_found(tmp_path):
    make_snap.make_mini(tmp_path / "snap-amazon", stem="com-amazon")
    wanted = load_snap("snap-amazon", tmp_path / "snap-amazon", k=3).fingerprint()
    for found in (
        load_dataset("snap-amazon:k=3", tmp_path),
        load_dataset(f"{tmp_path}/snap-amazon:k=3"),
        import_any(f"{tmp_path}/snap-amazon:k=3"),
    ):
        assert found.fingerprint() == wanted
    with pytest.raises(UsageError, match="Did you mean version"):
        load_dataset("snap-amazon:verion=v3", tmp_path)


def test_leftovers_of_killed_processes_are_removed(mini, cache):
    import_snap(mini)
    (made,) = cache.glob("converted/com_mini*")
    (left := made.with_name(f".{made.name}.abc")).mkdir()
    (left / "edges").write_bytes(b"0")
    (other := made.with_name(f".other-{made.name}.abc")).mkdir()
    (made / "meta.json").unlink()
    import_snap(mini)
    assert not left.exists()
    assert other.exists()


def test_what_was_converted_is_enough(tmp_path, cache, caplog):
    make_snap.make_mini(tmp_path / "com-amazon", stem="com-amazon")
    wanted = load_dataset("snap-amazon:k=3", tmp_path).fingerprint()
    shutil.rmtree(tmp_path / "com-amazon")
    with caplog.at_level("INFO", logger="gnn_mtl"):
        assert load_dataset("snap-amazon:k=3", tmp_path).fingerprint() == wanted
    assert f"converted from them: {cache / 'converted'}" in caplog.text
    with pytest.raises(DatasetNotFoundError):
        load_dataset("snap-amazon", tmp_path)  # with other options it was not


def test_repeats_are_warned_of_every_time(mini):
    for _ in range(2):
        with pytest.warns(
            LabelWarning, match=r"^3 of the largest communities of com-mini.*left out"
        ):
            import_snap(mini)
        with pytest.warns(LabelWarning, match=r"^1 of the largest .*wrong reason; leave them out"):
            import_snap(mini, k=2, distinct=False)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_processes_convert_once(mini, cache, tmp_path, monkeypatch):
    def slowly(*arguments):
        with (tmp_path / "conversions").open("a") as file:
            file.write("x")
        time.sleep(0.2)
        return read_edges(*arguments)

    monkeypatch.setattr(_snap, "read_edges", slowly)
    fork = multiprocessing.get_context("fork")
    jobs = [fork.Process(target=import_snap, args=(mini,)) for _ in range(3)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert [job.exitcode for job in jobs] == [0, 0, 0]
    assert (tmp_path / "conversions").read_text() == "x"


# Fetching


def test_what_is_not_here_is_explained(tmp_path):
    with pytest.raises(DatasetNotFoundError) as caught:
        load_dataset("snap-orkut", tmp_path / "root")
    text = str(caught.value)
    base = "https://snap.stanford.edu/data/bigdata/communities/"
    for part in (
        str(tmp_path / "root" / "com-orkut"), str(tmp_path / "cache"), "454.0 MB",
        f"curl -fL -C - -o com-orkut.ungraph.txt.gz {base}com-orkut.ungraph.txt.gz",
        f"{base}com-orkut.top5000.cmty.txt.gz", "Downloads are switched off",
    ):  # fmt: skip
        assert part in text
    assert caught.value.exit_code == 3
    assert not (tmp_path / "root").exists()


def test_fetching(tmp_path, monkeypatch):
    monkeypatch.delenv("GNN_MTL_NO_DOWNLOAD")
    make_snap.make_mini(tmp_path / "server", stem="com-youtube")
    calls = []

    def fake(url, target, *, max_bytes, sha256):
        calls.append((url, max_bytes, sha256))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / "server" / url.rpartition("/")[2], target)
        return "0" * 64

    monkeypatch.setattr(_snap, "fetch_file", fake)
    root = tmp_path / "root"
    graph = load_snap("snap-youtube", root, k=5)
    assert graph.num_tasks == 5
    assert [url.rpartition("/")[2] for url, _, _ in calls] == [
        "com-youtube.ungraph.txt.gz", "com-youtube.top5000.cmty.txt.gz",
    ]  # fmt: skip
    assert all(url.startswith("https://") for url, _, _ in calls)
    note = json.loads((root / "com-youtube" / "com-youtube.ungraph.txt.gz.json").read_text())
    assert note == {"url": calls[0][0], "sha256": "0" * 64}
    (root / "com-youtube" / "com-youtube.top5000.cmty.txt.gz").unlink()
    assert fetch_snap("snap-youtube", root, max_bytes=7) == root / "com-youtube"
    assert len(calls) == 3
    assert calls[2][1] == 7

    def refuse(url, *_, **__):
        raise DatasetNotFoundError(f"Expected to fetch {url}. Found: no network.")

    monkeypatch.setattr(_snap, "fetch_file", refuse)
    with pytest.raises(DatasetNotFoundError, match=r"snap-dblp.*no network.*4\.5 MB.*curl"):
        load_snap("snap-dblp", root)
    with pytest.raises(DatasetNotFoundError, match="switched off"):
        fetch_snap("snap-dblp", root, download=False)


def test_the_table_of_sets():
    assert list(SNAP_SETS) == [
        f"snap-{name}" for name in ("amazon", "dblp", "youtube", "livejournal", "orkut")
    ]
    assert [info.version for info in SNAP_SETS.values()] == ["v3", "v2", "v1", "v2", "v2"]
    for info in SNAP_SETS.values():
        for name, size, digest in info.files:
            assert re.fullmatch(r"com-\w+\.(ungraph|top5000\.cmty)\.txt\.gz", name)
            assert 1e5 < size < 1e9
            assert digest is None or re.fullmatch("[0-9a-f]{64}", digest)


# Size


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_orkut_in_bounded_memory(tmp_path, capsys):
    """Read 21M edges; GNN_MTL_SNAP_EDGES=117185083 for as many as Orkut has."""
    count = int(os.environ.get("GNN_MTL_SNAP_EDGES", "21000000"))
    nodes, edges = make_snap.make_large(tmp_path / "com-large", count)
    code = """
import json, sys, time, warnings
from pathlib import Path
from gnn_mtl.datasets import import_snap
from gnn_mtl.datasets._snap_text import read_edges
def rss():  # ru_maxrss would be that of the process that started this one
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 2**20
warnings.simplefilter("ignore")
folder, before = Path(sys.argv[1]), rss()
start = time.perf_counter()
found = read_edges(folder / "com-large.ungraph.txt.gz", folder / "edges")
read = {"parse_seconds": time.perf_counter() - start, "parse_rss_gb": rss() - before}
start = time.perf_counter()
graph = import_snap(folder, k=500, graph=sys.argv[2])
print(json.dumps({**read, "seconds": time.perf_counter() - start, "peak_rss_gb": rss(),
    "rss_before_gb": before, "nodes": graph.num_nodes, "tasks": graph.num_tasks,
    "stored_edges": graph.csc.num_edges, "all": [len(found.ids), found.num_edges]}))
"""
    for how in ("induced", "full"):
        out = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "com-large"), how],
            check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        found = json.loads(out)
        with capsys.disabled():
            print(f"\n{edges} edges, {how}: {found}")  # noqa: T201
        assert found["all"] == [nodes, edges]
        assert found["tasks"] == 500
        assert found["parse_rss_gb"] < 0.25
        assert found["peak_rss_gb"] - found["rss_before_gb"] < 0.5 + 35 * edges / 2**30
        assert found["parse_seconds"] < 60 + 4e-6 * edges
