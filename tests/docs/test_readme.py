"""The README's examples are run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gnn_mtl.runs import Sweep

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def fenced(language: str, after: str = "") -> str:
    """The first fenced block of a language after a marker."""
    found = re.search(rf"```{language}\n(.*?)```", README[README.index(after) :], re.DOTALL)
    assert found is not None
    return found.group(1)


def test_own_model_and_loop_in_25_lines(capsys: pytest.CaptureFixture[str]) -> None:
    code = fenced("python", "<!-- test: own-loop -->")
    lines = [line for line in code.splitlines() if line.strip()]
    assert len(lines) <= 26
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)  # noqa: S102 - our own text
    assert capsys.readouterr().out.strip() == "(8, 8)"
    assert names["schedule"].step == 4 * len(names["loader"])


def test_an_aggregator_in_that_loop(capsys: pytest.CaptureFixture[str]) -> None:
    """Its lines in place of the loop's last ones, as the text says."""
    code, last = fenced("python", "<!-- test: own-loop -->"), "        loss = gm.masked_bce("
    head, _, tail = code.partition(last)
    after = tail.partition("optimizer.step(), head_optimizer.step(tasks)\n")[2]
    made = "aggregator = gm.UPGrad().build(graph.num_tasks)"
    assert f"`{made}`" in README
    loop = head.replace("\nfor epoch", f"\n{made}\nfor epoch")
    code = loop + fenced("python", "<!-- test: own-loop-aggregator -->") + after
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)  # noqa: S102 - our own text
    assert capsys.readouterr().out.strip() == "(8, 8)"
    assert names["aggregator"].calls == names["schedule"].step  # type: ignore[attr-defined]


def test_first_commands_are_the_two_of_the_makefile() -> None:
    commands = [line.split("#")[0].strip() for line in fenced("console").splitlines()]
    assert commands == ["make demo", "make test"]
    targets = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(f"\n{command.split()[1]}: setup" in targets for command in commands)


def test_recipe_is_valid(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(fenced("toml"), encoding="utf-8")
    sweep = Sweep.load(recipe)
    assert [config.method for config in sweep.methods] == ["joint", "son-goku"]
    assert len(sweep.runs()) == 6


def test_linked_files_exist() -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
