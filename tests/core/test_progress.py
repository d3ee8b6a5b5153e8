"""A bar on a terminal, a line now and then elsewhere, nothing at all for short work."""

import io
import logging
from contextlib import contextmanager, redirect_stderr
from types import SimpleNamespace

import pytest

from gnn_mtl._core import progress
from gnn_mtl._core.progress import LOG_EVERY_S, SILENT_S, Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that only moves by hand."""
    time = SimpleNamespace(now=100.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: time.now))
    return time


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, logger="gnn_mtl")
    return caplog


@contextmanager
def on_a_terminal():
    """Make stderr one; pytest exchanges it between fixtures and tests, so not as a fixture."""
    with pytest.MonkeyPatch.context() as patch, redirect_stderr(Terminal()) as terminal:
        patch.setenv("TERM", "xterm")
        yield terminal


def test_without_a_terminal_a_line_every_ten_seconds(clock, lines, capsys):
    with Progress("training", 100) as work:
        for _ in range(40):
            clock.now += 1.0
            work.advance(2, note="valid 0.5")
    assert work.done == 80
    assert lines.messages == [
        f"training: {2 * second}/100 after {second} s valid 0.5" for second in (10, 20, 30, 40)
    ]
    assert capsys.readouterr().err == ""


def test_without_a_total(clock, lines):
    with Progress("reading") as work:
        clock.now += LOG_EVERY_S
        work.advance()
    assert [message.strip() for message in lines.messages] == ["reading: 1 after 10 s"]


def test_short_work_is_silent(clock, lines):
    with on_a_terminal() as terminal, Progress("training", 10) as work:
        for _ in range(10):
            clock.now += SILENT_S / 11
            work.advance()
    assert lines.messages == []
    assert terminal.getvalue() == ""


def test_a_bar_on_a_terminal_that_goes_away(clock, lines):
    with on_a_terminal() as terminal:
        with Progress("training", 10) as work:
            clock.now += SILENT_S
            work.advance(4, note="valid 0.5")
            (shown,) = Progress._display.tasks
            assert (shown.description, shown.completed, shown.total) == ("training", 4, 10)
        work.close()
    assert Progress._display is None
    assert "training" in terminal.getvalue()
    assert terminal.getvalue().endswith("\x1b[2K\x1b[?25h\r")
    assert lines.messages == []


def test_nested_counts_share_one_display(clock):
    with on_a_terminal():
        with Progress("runs", 2) as outer:
            for run in range(2):
                with Progress("training", 5) as inner:
                    clock.now += SILENT_S
                    inner.advance()
                    titles = [task.description for task in Progress._display.tasks]
                    assert titles == (["training"] if run == 0 else ["runs", "training"])
                outer.advance()
            assert [task.description for task in Progress._display.tasks] == ["runs"]
        assert Progress._display is None


def test_an_error_takes_the_bar_away(clock):
    with on_a_terminal():
        with pytest.raises(KeyboardInterrupt), Progress("training", 5) as work:  # noqa: PT012
            clock.now += SILENT_S
            work.advance()
            assert Progress._display is not None
            raise KeyboardInterrupt
        assert Progress._display is None
