"""``JsonStream``: walks a large JSON file value by value, in bounded memory."""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gnn_mtl._core.errors import DataError, FileFormatError

CHARACTERS_AT_ONCE = 1 << 22
LONGEST_VALUE = 1 << 28
SPACE = re.compile(r"[ \t\n\r]*")


class JsonStream:
    """The values of one JSON text, taken in order.

    Args:
        file: The text.
    """

    def __init__(self, file: io.TextIOBase) -> None:
        self._file = file
        self._decode = json.JSONDecoder().raw_decode
        self._text = ""
        self._at = 0
        self._before = 0

    def members(self) -> Iterator[str]:
        """Yield the keys of an object; the value of each should be taken before the next."""
        self._take("{")
        if self._peek() == "}":
            self._at += 1
            return
        while True:
            self._peek()
            key = self.value()
            if not isinstance(key, str):
                raise ValueError(f"a key that is no text before character {self._position()}")
            self._take(":")
            yield key
            if self._take(",}") == "}":
                return

    def elements(self) -> Iterator[Any]:
        """Yield the elements of an array, each small enough to be held."""
        self._take("[")
        if self._peek() == "]":
            self._at += 1
            return
        while True:
            yield self.value()
            if self._take(",]") == "]":
                return

    def value(self) -> Any:  # noqa: ANN401
        """Return the next value whole."""
        self._peek()
        while True:
            try:
                value, end = self._decode(self._text, self._at)
            except json.JSONDecodeError:
                if not self._fill():
                    raise
                continue
            if end == len(self._text) and self._fill():
                continue  # a number may go on in what was just read
            self._at = end
            return value

    def finish(self) -> None:
        """Raise a ValueError if anything follows."""
        if self._peek():
            raise ValueError(f"more than one value, the second at character {self._position()}")

    def _position(self) -> int:
        return self._before + self._at

    def _fill(self) -> bool:
        """Read on, at least as much as is held; False at the end of the file."""
        held = len(self._text) - self._at
        if held > LONGEST_VALUE:
            raise ValueError(f"a value of more than {LONGEST_VALUE} characters")
        more = self._file.read(max(CHARACTERS_AT_ONCE, held))
        self._before += self._at
        self._text, self._at = self._text[self._at :] + more, 0
        return bool(more)

    def _peek(self) -> str:
        """Return the next character that is no space, "" at the end."""
        while True:
            space = SPACE.match(self._text, self._at)
            self._at = space.end() if space else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._fill():
                return ""

    def _take(self, wanted: str) -> str:
        found = self._peek()
        if not found or found not in wanted:
            raise ValueError(
                f"{found or 'the end'!r} at character {self._position()} instead of "
                f"{' or '.join(map(repr, wanted))}"
            )
        self._at += 1
        return found


@contextlib.contextmanager
def json_stream(path: Path) -> Iterator[JsonStream]:
    """Open a JSON file; what damage or other content does to its reader becomes one error.

    Raises:
        FileFormatError: If the file is missing, no JSON, or not of the shape the caller walks.
    """
    try:
        with path.open(encoding="utf-8") as file:
            stream = JsonStream(file)
            yield stream
            stream.finish()
    except FileNotFoundError as error:
        raise FileFormatError(
            f"Expected the file {path}. Found none. Fetch or copy the dataset again."
        ) from error
    except DataError:
        raise
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError, OSError) as error:
        raise FileFormatError(
            f"{path} should be whole JSON of the published layout. "
            f"Found: {str(error) or type(error).__name__}. Fetch or copy it again."
        ) from error
