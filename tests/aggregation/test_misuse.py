"""What is said where a method is written, called or configured wrongly; help texts."""

import ast
import doctest
import inspect
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch

import gnn_mtl as gm
from gnn_mtl._core.errors import UsageError
from gnn_mtl.aggregation import (
    AGGREGATORS,
    AdaTask,
    GradOPS,
    GramianMethod,
    ParetoMTL,
    TorchJD,
    Uncertainty,
    UPGrad,
    Weighting,
    _base,
)

ROWS = torch.eye(3, 5, dtype=torch.float64)


def test_a_configuration_is_no_function():
    for call in (lambda: UPGrad()(ROWS), lambda: AdaTask()(ROWS, losses=torch.ones(3))):
        with pytest.raises(UsageError, match=r"\.build\(num_tasks\)\(jacobian\)"):
            call()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: GradOPS(alpha="0.5"), "`alpha` of GradOPS should be a number. Found '0.5', a str"),
        (lambda: GradOPS(gate=1), "`gate` of GradOPS should be True or False. Found 1"),
        (lambda: ParetoMTL(number=2.0), "`number` of ParetoMTL should be a whole number"),
        (lambda: ParetoMTL(index=True), "Found True, a bool"),
        (lambda: Uncertainty(lr="fast"), "`lr` of Uncertainty should be a number"),
        (lambda: AdaTask(beta1=None), "`beta1` of AdaTask should be a number. Found None"),
        (lambda: UPGrad(preference=ROWS), "`preference` of UPGrad should be a tuple"),
        (lambda: UPGrad(preference=("a",)), "`preference` should hold positive numbers"),
    ],
)
def test_options_of_another_type(make, said):
    with pytest.raises(UsageError) as caught:
        make()
    assert said in str(caught.value)


def test_lists_become_tuples_and_whole_numbers_are_numbers():
    assert UPGrad(preference=[1, 2.0]) == UPGrad(preference=(1.0, 2.0))
    assert hash(ParetoMTL(groups=[[0], [1, 2]])) == hash(ParetoMTL(groups=((0,), (1, 2))))
    assert GradOPS(alpha=-3).alpha == -3


@dataclass(frozen=True, kw_only=True)
class Own(GramianMethod):
    kind = "own"
    how: str = "right"

    def solve(self, gramian, **_):
        size = len(gramian)
        return {
            "right": lambda: torch.ones(size),
            "numpy": lambda: np.ones(size, dtype=np.float32),
            "list": lambda: [1.0] * size,
            "whole": lambda: torch.ones(size, dtype=torch.int64),
            "column": lambda: torch.ones(size, 1),
            "number": lambda: torch.tensor(1.0),
            "few": lambda: torch.ones(size - 1),
            "complex": lambda: torch.ones(size) * 1j,
            "none": lambda: None,
            "nan": lambda: torch.ones(size) * math.nan,
            "infinite": lambda: torch.ones(size) / 0,
        }[self.how]()


class OwnOfLosses(Weighting):
    kind, needs, acts_on = "of_losses", "losses", "losses"

    def _weights(self, tasks, losses, gramian):
        return losses[:1]


@pytest.mark.parametrize("how", ["right", "numpy", "list", "whole"])
def test_weights_of_any_real_type_become_float64(how):
    found = Own(how=how).build(3).weights(ROWS @ ROWS.T)
    assert found.dtype == torch.float64
    assert found.tolist() == [1.0] * 3
    assert Own(how=how).build(3)(ROWS.float()).dtype == torch.float32


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("column", r"one real weight a task, shape \[3\]\. Found torch\.float64 of shape \[3, 1\]"),
        ("number", r"shape \[3\]\. Found .* of shape \[\]"),
        ("few", r"of shape \[2\]"),
        ("complex", "complex"),
        ("none", "should return a tensor of weights. Found None"),
        ("nan", r"returned weights that are not finite, \[nan"),
        ("infinite", r"not finite, \[inf"),
    ],
)
def test_wrong_weights_name_the_method(how, said):
    with pytest.raises(UsageError, match=f"^own .*{said}"):
        Own(how=how).build(3).weights(ROWS @ ROWS.T)


def test_wrong_weights_from_losses_alone_name_the_method():
    with pytest.raises(UsageError, match=r"^of_losses .*shape \[3\]"):
        OwnOfLosses(3).weights(losses=torch.ones(3))


def test_help_says_what_to_override_by_an_example_that_runs():
    text = inspect.getdoc(gm.Weighting)
    assert all(name in text for name in ("_weights", "needs", "acts_on"))
    test = doctest.DocTestParser().get_doctest(text, vars(_base).copy(), "Weighting", None, 0)
    assert doctest.DocTestRunner().run(test) == (0, 2)


def test_labels_tell_methods_apart():
    assert UPGrad().label == "upgrad"
    assert TorchJD(method="mgda").label == "torchjd-mgda"


@pytest.mark.parametrize("kind", sorted(AGGREGATORS))
def test_help_texts_are_plain(kind):
    """No markup in what the command line prints: texts of fields, and the first paragraph."""
    config = AGGREGATORS[kind]
    texts = [inspect.getdoc(config).partition("\n\n")[0]]
    for owner in config.__mro__[:-1]:
        if owner.__module__.startswith("gnn_mtl"):
            (tree,) = ast.parse(inspect.cleandoc(inspect.getsource(owner))).body
            for one, after in zip(tree.body, tree.body[1:], strict=False):
                if isinstance(one, ast.AnnAssign) and isinstance(after, ast.Expr):
                    texts.append(after.value.value)
    for text in texts:
        assert "``" not in text, text
        assert ":func:" not in text, text
        assert ":class:" not in text, text
        assert ":math:" not in text, text
