"""What every command has in common: help, suggestions, exit codes, messages."""

import importlib
import json
import subprocess
import sys
import warnings

import pytest

from gnn_mtl import __version__
from gnn_mtl._core import errors
from gnn_mtl.cli import main
from gnn_mtl.cli._main import COMMANDS
from gnn_mtl.cli._parse import parse_seeds, take_flag, take_positional, take_value

ACTIONS = ("list", "show", "verify", "import", "make")


@pytest.mark.parametrize("flag", ["--help", "-h"])
@pytest.mark.parametrize("command", [*COMMANDS, *(f"data {action}" for action in ACTIONS)])
def test_every_command_has_help(command, flag, cli):
    said = cli(*command.split(), flag)
    assert said.code == 0
    assert said.err == ""
    assert command == "data list" or f"gnn-mtl {command.split()[0]}" in said.out


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"], ["help"]])
def test_the_list_of_commands(argv, cli):
    said = cli(*argv)
    assert said.code == 0
    for command in COMMANDS:
        assert f"\n  {command} " in said.out
    for code in ("0 done", "2 usage", "3 data", "4 training", "130/143"):
        assert code in said.out


@pytest.mark.parametrize("argv", [["--version"], ["-V"], ["version"]])
def test_version(argv, cli):
    assert cli(*argv).out == f"gnn-mtl {__version__}\n"


def test_every_command_exists():
    for command in COMMANDS:
        assert callable(importlib.import_module(f"gnn_mtl.cli._{command}").run)


def test_help_starts_fast():
    """Nothing heavy is imported; what counts is modules, not the clock of a busy machine."""
    script = (
        "import sys, json; from gnn_mtl.cli import main\n"
        "code = main(['--help']); print(json.dumps([code, sorted(sys.modules)]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    code, modules = json.loads(done.stdout.splitlines()[-1])
    assert code == 0
    heavy = {"torch", "numpy", "scipy", "numba", "pydantic", "tyro", "rich", "sklearn", "networkx"}
    assert heavy & set(modules) == set()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["trian"], "gnn-mtl train"),
        (["compair"], "gnn-mtl compare"),
        (["--epochs"], "unknown command '--epochs'"),
        (["data", "lst"], "list, fetch, show, verify"),
        (["bench", "samplr"], "sampler"),
        (["train", "--epohcs", "3"], "--epochs"),
        (["train", "--seads=1,2"], "--seeds"),
        (["train", "--resum"], "--resume"),
        (["train", "--datset", "x"], "--dataset"),
        (["train", "--train.epochz", "3"], "--train.epochs"),
        (["train", "--scheduler.kind", "colouring"], "coloring"),
        (["train", "--scheduler.kind=radnom"], "random"),
        (["train", "--encoder.kind", "sagee"], "sage"),
        (["train", "--head.kind", "mpl"], "mlp"),
        (["train", "--scheduler.kind"], "needs a value"),
        (["train", "--out", "--resume"], "--out needs a value"),
        (["train", "--epochs", "0"], "at least 1"),
        (["train", "--epochs", "many"], "many"),
        (["train", "--scheduler.kind", "coloring", "--scheduler.tau", "7"], "[-1, 1]"),
        (["train", "--scheduler.kind", "static"], "--groups FILE"),
        (["train", "--scheduler.kind", "joint", "--groups", "g.json"], "joint"),
        (["train", "--seeds", "3-1"], "0,1,2 or 0-9"),
        (["train", "--seeds", ""], "0,1,2 or 0-9"),
        (["train", "none.toml"], "none.toml"),
        (["compare"], "usage"),
        (["compare", "--sedes", "1"], "unknown option --sedes"),
        (["compare", "r.toml", "--jobs", "none"], "--jobs"),
        (["compare", "r.toml", "--jobs", "0"], "--jobs"),
        (["report"], "run folders"),
        (["data", "make", "planted"], "--out"),
        (["data", "verify"], "PATH"),
        (["data", "show", "planted:num_nods=30"], "num_nodes"),
    ],
    ids=" ".join,
)
def test_usage_errors_exit_2_and_suggest(argv, said, cli, here):
    if argv[0] == "compare" and "r.toml" in argv:
        (here / "r.toml").write_text("")
    result = cli(*argv)
    assert result.code == 2
    assert said in " ".join((result.err + result.out).replace("│", "").split())
    assert "Traceback" not in result.err
    assert [path.name for path in here.iterdir()] in ([], ["r.toml"])


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["train", "--dataset", "debian-tag"], "debian-tags"),
        (["data", "show", "plantd"], "planted"),
        (["data", "show", "none.npz"], "none.npz"),
        (["data", "verify", "none.npz"], "none.npz"),
        (["data", "import", "none.npz", "--out", "o.npz"], "none.npz"),
        (["train", "--dataset", "planted:num_nodes=60", "--groups", "none.json"], "none.json"),
        (["report", "nowhere"], "nowhere"),
        (["compare", "nowhere"], "nowhere"),
        (["affinity", "nowhere"], "nowhere"),
        (["group", "none.npz"], "none.npz"),
    ],
    ids=" ".join,
)
def test_data_errors_exit_3(argv, said, cli, here):
    result = cli(*argv)
    assert result.code == 3
    assert said in result.err
    assert result.err.startswith(f"gnn-mtl {argv[0]}: ")
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.UsageError("expected"), 2),
        (errors.StorageError("expected"), 3),
        (errors.TrainingStoppedError("expected"), 4),
        (errors.InterruptedRunError("expected", signal_number=15), 143),
        (errors.GnnMtlError("expected"), 1),
        (FileNotFoundError(2, "No such file", "expected"), 3),
        (KeyboardInterrupt(), 130),
    ],
    ids=lambda value: type(value).__name__,
)
def test_errors_become_exit_codes_and_one_line(error, code, cli, monkeypatch):
    import gnn_mtl.cli._doctor as command

    def fail(argv):
        raise error

    monkeypatch.setattr(command, "run", fail)
    result = cli("doctor")
    assert result.code == code
    (line,) = result.err.splitlines()
    assert line.startswith("gnn-mtl doctor: ")
    assert "expected" in line or isinstance(error, KeyboardInterrupt)


def test_other_errors_are_bugs_and_keep_their_trace(monkeypatch):
    import gnn_mtl.cli._doctor as command

    monkeypatch.setattr(command, "run", lambda argv: {}["bug"])
    with pytest.raises(KeyError):
        main(["doctor"])


def test_our_warnings_are_one_line_each(cli, monkeypatch):
    import gnn_mtl.cli._doctor as command

    def warn(argv):
        for _ in range(2):
            warnings.warn("look out", errors.LabelWarning, stacklevel=2)
        return 0

    monkeypatch.setattr(command, "run", warn)
    assert cli("doctor").err == "warning: look out\n" * 2


# pieces


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("0,1,2", (0, 1, 2)), ("0-3", (0, 1, 2, 3)), ("7", (7,)), ("5-5", (5,)), ("-1", (-1,))],
)
def test_seeds(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "1-", "1,,2", "1-2-3", "3-1", "1.5"])
def test_no_seeds(text):
    with pytest.raises(errors.UsageError, match="0,1,2 or 0-9"):
        parse_seeds(text)


def test_flags_are_taken_out_wherever_they_stand():
    argv = ["recipe.toml", "--out", "a", "--resume", "--seeds=1,2", "--rest", "-3"]
    assert take_positional(argv) == "recipe.toml"
    assert take_value(argv, "--out") == "a"
    assert take_value(argv, "--seeds") == "1,2"
    assert take_value(argv, "--groups") is None
    assert take_flag(argv, "--resume")
    assert not take_flag(argv, "--resume")
    assert take_positional(argv) is None
    assert take_value(argv, "--rest") == "-3"
    assert argv == []
    for argv in (["--out"], ["--out", "--resume"]):
        with pytest.raises(errors.UsageError, match="--out needs a value"):
            take_value(argv, "--out")
