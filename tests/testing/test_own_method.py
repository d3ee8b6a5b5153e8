"""A method of one's own, as the documentation has it, through the battery."""

from dataclasses import dataclass

from gnn_mtl.aggregation import GramianMethod
from gnn_mtl.testing import check_aggregator


@dataclass(frozen=True, kw_only=True)
class ShortestFirst(GramianMethod):
    """The example of the documentation: weights that fall with the length of the gradient."""

    kind = "shortest_first"
    promises = frozenset({"permutation", "scaling", "nonnegative"})
    power: float = 0.5

    def solve(self, gramian, **_):
        squares = gramian.diagonal()
        return (squares / squares.mean()) ** (-self.power / 2)


def test_a_method_of_ten_lines_passes():
    checked = check_aggregator(ShortestFirst())
    assert {"configuration", "finite", "saved state", "errors"} <= set(checked)
    assert [name for name in checked if name.startswith("promise")] == [
        "promise permutation", "promise scaling", "promise nonnegative",
    ]  # fmt: skip
    assert check_aggregator(ShortestFirst(power=1.0), num_tasks=9, seed=3) == checked
