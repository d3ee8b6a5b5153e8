"""The order that ``numpy.argsort`` gave before NumPy 1.25: an introsort that is not stable.

Which of several equal values come last decides which communities a published benchmark holds. Newer
NumPy sorts with vector instructions, so that its order differs from one processor to another.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

SMALL = 15


def introsort_order(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return indices that sort ``values`` ascending, equal ones as NumPy 1.7 to 1.24 left them.

    Median-of-three quicksort, the smaller part first, insertion sort for parts of up to 16 values.
    NumPy's switch to heapsort after 2 log2(n) levels is left out: sizes of communities do not reach
    it.
    """
    order = np.arange(len(values))
    _introsort(np.asarray(values, dtype=np.int64), order)
    return order


@numba.njit(cache=True, nogil=True)
def _introsort(v, order):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    waiting = [(0, len(order) - 1)]
    while len(waiting) > 0:
        left, right = waiting.pop()
        while right - left > SMALL:
            middle = left + (right - left) // 2
            for low, high in ((left, middle), (middle, right), (left, middle)):
                if v[order[high]] < v[order[low]]:
                    order[low], order[high] = order[high], order[low]
            pivot = v[order[middle]]
            i, j = left, right - 1
            order[middle], order[j] = order[j], order[middle]
            while True:
                i += 1
                while v[order[i]] < pivot:
                    i += 1
                j -= 1
                while pivot < v[order[j]]:
                    j -= 1
                if i >= j:
                    break
                order[i], order[j] = order[j], order[i]
            order[i], order[right - 1] = order[right - 1], order[i]
            if i - left < right - i:
                waiting.append((i + 1, right))
                right = i - 1
            else:
                waiting.append((left, i - 1))
                left = i + 1
        for i in range(left + 1, right + 1):
            index = order[i]
            j = i
            while j > left and v[index] < v[order[j - 1]]:
                order[j] = order[j - 1]
                j -= 1
            order[j] = index
