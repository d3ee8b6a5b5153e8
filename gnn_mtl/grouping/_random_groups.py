"""Random groups of given sizes: the control every grouping is compared with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gnn_mtl._core.errors import UsageError
from gnn_mtl.grouping._greedy_coloring import Groups


def random_groups(
    sizes: Sequence[int], num_tasks: int, /, *, generator: np.random.Generator
) -> Groups:
    """Draw groups of exactly these sizes that together hold every task.

    If the sizes add up to T the result is a uniformly random partition. If they add up to more (a
    grouping whose tasks repeat), the first T places hold every task once, in random order, and each
    place left over a random task not yet in its group.

    Args:
        sizes: Size of each group, in order.
        num_tasks: Number of tasks T.
        generator: Source of randomness, e.g. from ``gnn_mtl._core.seeding.generator``.

    Returns:
        Groups with sorted members, in the order of ``sizes``.

    Raises:
        UsageError: If a size lies outside [1, T] or the sizes add up to less than T.
    """
    if any(not 1 <= size <= num_tasks for size in sizes):
        raise UsageError(f"Group sizes should lie in [1, {num_tasks}]. Found {list(sizes)}.")
    if sum(sizes) < num_tasks:
        raise UsageError(
            f"Group sizes should add up to at least the {num_tasks} tasks. "
            f"Found {list(sizes)}, which add up to {sum(sizes)}."
        )
    tasks = generator.permutation(num_tasks)
    group_of = np.repeat(np.arange(len(sizes)), sizes)[:num_tasks]
    groups: Groups = []
    for number, size in enumerate(sizes):
        first = tasks[group_of == number]
        others = np.setdiff1d(np.arange(num_tasks), first)
        extra = generator.permutation(others)[: size - len(first)]
        groups.append(tuple(sorted([*first.tolist(), *extra.tolist()])))
    return groups


def equal_sizes(num_groups: int, num_tasks: int, /) -> tuple[int, ...]:
    """Return the sizes of ``num_groups`` groups as equal as possible, larger ones first.

    Raises:
        UsageError: If there are fewer tasks than groups, or no group.

    Example:
        >>> equal_sizes(3, 8)
        (3, 3, 2)
    """
    if not 1 <= num_groups <= num_tasks:
        raise UsageError(
            f"The number of groups should lie in [1, {num_tasks}], the number of tasks. "
            f"Found {num_groups}."
        )
    small, larger = divmod(num_tasks, num_groups)
    return (small + 1,) * larger + (small,) * (num_groups - larger)
