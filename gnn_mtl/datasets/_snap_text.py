"""Streams SNAP's text files, gzipped or plain: edges (two ids a line) and communities (many ids).

Ids are original ones, below 2**31 and with gaps; lines that begin with ``#`` are comments, of which
``# Nodes: N Edges: E`` is believed enough to be checked. Memory does not grow with the edges.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path

import numba
import numpy as np
from numpy.typing import NDArray

from gnn_mtl._core.errors import FileFormatError, GraphError, LabelError
from gnn_mtl._core.progress import Progress

BYTES_AT_ONCE = 1 << 22
EDGES_AT_ONCE = 1 << 20
LARGEST_ID = 2**31 - 2
GZIP = b"\x1f\x8b"
COUNTS = re.compile(rb"^#[^\n]*Nodes:\s*(\d+)\s+Edges:\s*(\d+)", re.MULTILINE)
NUMBER, COLUMNS, LINE, IN_COMMENT, FLAW = range(5)
"""What the scanner remembers; ``NUMBER`` is -1 between two numbers, ``FLAW`` while all is well."""


@dataclass(frozen=True, eq=False)
class SnapEdges:
    """The edges of a file, kept on disk.

    Attributes:
        path: int32 pairs of original ids, one an edge.
        num_edges: Number of edges E.
        ids: int32 ``[N]``: the original ids, ascending; node v is ``ids[v]``.
    """

    path: Path
    num_edges: int
    ids: NDArray[np.int32]

    def chunks(self) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int32]]]:
        """Yield (source, target) node numbers, about a million edges at a time."""
        with self.path.open("rb") as file:
            while len(pairs := np.fromfile(file, np.int32, 2 * EDGES_AT_ONCE)):
                yield self._number(pairs[::2]), self._number(pairs[1::2])

    @cached_property
    def _number(self) -> Callable[[NDArray[np.int32]], NDArray[np.int32]]:
        """The map from original ids to node numbers: a table, unless ids are very sparse."""
        last = int(self.ids[-1])
        if last > 8 * len(self.ids) + (1 << 20):
            return lambda ids: np.searchsorted(self.ids, ids).astype(np.int32)
        table = np.zeros(last + 1, dtype=np.int32)
        table[self.ids] = np.arange(len(self.ids), dtype=np.int32)
        return lambda ids: table[ids]


@dataclass(frozen=True, eq=False)
class Communities:
    """Lists of members, one a community, in the order of the file.

    Attributes:
        indptr: int64 ``[C + 1]``; community c is ``members[indptr[c]:indptr[c + 1]]``.
        members: int32, ascending and without repeats within each community.
    """

    indptr: NDArray[np.int64]
    members: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def __getitem__(self, row: int) -> NDArray[np.int32]:
        return self.members[self.indptr[row] : self.indptr[row + 1]]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Members of each community, int64 ``[C]``."""
        return np.diff(self.indptr)

    @classmethod
    def from_lists(cls, indptr: NDArray[np.int64], members: NDArray[np.integer]) -> Communities:
        """Sort each list and drop repeated members."""
        row = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
        order = np.lexsort((members, row))
        row, ordered = row[order], members[order].astype(np.int32)
        fresh = np.ones(len(ordered), dtype=np.bool_)
        fresh[1:] = (ordered[1:] != ordered[:-1]) | (row[1:] != row[:-1])
        counts = np.bincount(row[fresh], minlength=len(indptr) - 1)
        return cls(np.concatenate([[0], np.cumsum(counts)]), ordered[fresh])


def read_edges(path: Path, out: Path) -> SnapEdges:
    """Read an edge list, writing its edges to the new file ``out``.

    Args:
        path: ``com-X.ungraph.txt`` or ``.gz``: two ids a line.
        out: A new file; 8 bytes an edge.

    Returns:
        The edges; nodes are numbered by ascending original id.

    Raises:
        FileFormatError: If the file is missing, truncated, empty, not such a list, or holds other
            counts than its header says.
        GraphError: If an id is negative or not below 2**31 - 1.

    Note:
        Memory is a byte for each id up to the largest one, and a few blocks.
    """
    blocks = _blocks(path)
    first = next(blocks, b"")
    wanted = _declared(first, path)
    seen = np.zeros(1 << 16, dtype=np.bool_)
    values_read = 0
    with out.open("wb") as file:
        for values, _ in _scanned(chain([first], blocks), path, width=2):
            values.tofile(file)
            if (last := int(values.max(initial=0))) >= len(seen):
                grown = np.zeros(max(last + 1, 2 * len(seen)), dtype=np.bool_)
                grown[: len(seen)] = seen
                seen = grown
            seen[values] = True
            values_read += len(values)
            if wanted is not None and values_read > 2 * wanted[1]:
                break
    edges = values_read // 2
    ids = np.flatnonzero(seen).astype(np.int32)
    if edges == 0:
        raise FileFormatError(
            f"{path} should hold edges, two ids a line. Found none. Fetch or copy it again."
        )
    if wanted is not None and wanted != (len(ids), edges):
        raise FileFormatError(
            f"{path} says that it holds {wanted[0]} nodes and {wanted[1]} edges. Found {len(ids)} "
            f"and {edges}{' or more' if edges > wanted[1] else ''}. Fetch or copy it again."
        )
    return SnapEdges(out, edges, ids)


def read_communities(path: Path, ids: NDArray[np.int32]) -> Communities:
    """Read communities, one a line, as node numbers.

    Args:
        path: ``com-X.top5000.cmty.txt``, ``com-X.all.cmty.txt`` or ``.gz``.
        ids: Original ids of the nodes, ascending.

    Raises:
        FileFormatError: If the file is missing, truncated, empty or not such a list.
        GraphError: If an id is negative or not below 2**31 - 1.
        LabelError: If a community has a member that is no node of the graph.
    """
    members, ends, count = [np.zeros(0, dtype=np.int32)], [np.zeros(1, dtype=np.int64)], 0
    for values, stops in _scanned(_blocks(path), path, width=0):
        members.append(values)
        ends.append(stops + count)
        count += len(values)
    found, indptr = np.concatenate(members), np.concatenate(ends)
    if len(found) == 0:
        raise FileFormatError(
            f"{path} should hold communities, one a line. Found none. Fetch or copy it again."
        )
    number = np.searchsorted(ids, found)
    number[number == len(ids)] = 0
    unknown = np.flatnonzero(ids[number] != found)
    if len(unknown):
        row = int(np.searchsorted(indptr, unknown[0], side="right")) - 1
        raise LabelError(
            f"{path} should hold nodes of the graph only. Found {len(unknown)} memberships of "
            f"others, for example of node {found[unknown[0]]} in community {row}. Fetch both files "
            "of one set."
        )
    return Communities.from_lists(indptr, number)


def _declared(first: bytes, path: Path) -> tuple[int, int] | None:
    """Return (nodes, edges) as the comments at the top of a file say, if they do."""
    top = re.match(rb"(?:#[^\n]*(?:\n|$))*", first)
    said = COUNTS.search(top.group() if top else b"")
    if said is None:
        return None
    nodes, edges = int(said[1][:40]), int(said[2][:40])
    if nodes > LARGEST_ID + 1 or edges > 2**48:
        raise FileFormatError(
            f"{path} should have fewer than 2**31 nodes. Its header says {nodes} nodes and {edges} "
            "edges. Fetch or copy it again."
        )
    return nodes, edges


def _blocks(path: Path) -> Iterator[bytes]:
    """Yield the text of a file in blocks of bounded size, unpacked where it is gzipped."""
    try:
        with path.open("rb") as file:
            stream = gzip.GzipFile(fileobj=file) if file.read(2) == GZIP else file
            file.seek(0)
            with Progress(f"reading {path.name} (MB)", path.stat().st_size >> 20) as progress:
                while block := stream.read(BYTES_AT_ONCE):
                    progress.advance((file.tell() >> 20) - progress.done)
                    yield block
    except FileNotFoundError as error:
        raise FileFormatError(
            f"Expected the file {path}. Found none. Fetch or copy the dataset again."
        ) from error
    except (EOFError, OSError, zlib.error) as error:
        raise FileFormatError(
            f"{path} should be a whole file of text, gzipped or not. Found: {error}. "
            "Fetch or copy it again."
        ) from error


def _scanned(
    blocks: Iterator[bytes], path: Path, width: int
) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int64]]]:
    """Yield (numbers, positions among them at which lines end); ``width`` numbers a line, 0 any."""
    state = np.array([-1, 0, 1, 0, -1], dtype=np.int64)
    for block in chain(blocks, [b"\n"]):
        values = np.empty(len(block) // 2 + 1, dtype=np.int32)
        ends = np.empty(len(block) // 2 + 1 if width == 0 else 0, dtype=np.int64)
        found, lines = _scan(np.frombuffer(block, np.uint8), width, state, values, ends)
        if state[FLAW] >= 0:
            raise _flaw(path, state, width)
        yield values[:found], ends[:lines]


def _flaw(path: Path, state: NDArray[np.int64], width: int) -> FileFormatError | GraphError:
    flaw, line = int(state[FLAW]), int(state[LINE])
    if flaw == ord("-") or flaw == TOO_LARGE:
        found = "a negative one" if flaw == ord("-") else f"{state[NUMBER]} or more"
        return GraphError(
            f"{path} should hold node ids from 0 to {LARGEST_ID}. Found {found} in line {line}. "
            "Fetch or copy it again."
        )
    if flaw == MISCOUNTED:
        what = f"{width} ids in each line. Found {int(state[COLUMNS])} in line {line}"
    else:
        text = repr(chr(flaw)) if 32 <= flaw < 127 else f"the byte 0x{flaw:02x}"
        what = f"node ids and white space only. Found {text} in line {line}"
    return FileFormatError(f"{path} should hold {what}. Fetch or copy it again.")


TOO_LARGE, MISCOUNTED = 256, 257


@numba.njit(cache=True, nogil=True)
def _scan(block, width, state, values, ends):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Scan one block; stop with ``state[FLAW]`` set to the byte, or the code, of what is wrong."""
    number, columns, line, in_comment = state[0], state[1], state[2], state[3]
    found = lines = 0
    flaw = -1
    for byte in block:
        if in_comment:
            if byte == 10:
                in_comment = 0
                line += 1
        elif 48 <= byte <= 57:
            number = byte - 48 if number < 0 else 10 * number + byte - 48
            if number > LARGEST_ID:
                flaw = TOO_LARGE
                break
        elif byte == 9 or byte == 32 or byte == 10 or byte == 13:
            if number >= 0:
                values[found] = number
                found += 1
                columns += 1
                number = -1
            if byte == 10:
                if columns > 0:
                    if width == 0:
                        ends[lines] = found
                        lines += 1
                    elif columns != width:
                        flaw = MISCOUNTED
                        break
                columns = 0
                line += 1
        elif byte == 35 and columns == 0 and number < 0:
            in_comment = 1
        else:
            flaw = byte
            break
    state[0], state[1], state[2], state[3], state[4] = number, columns, line, in_comment, flaw
    return found, lines
