"""One torch thread where the work of a step is too small to be shared.

Threads of one small product mostly wait for each other, and on busy cores they wait long: the
logistic regressions of the demo took twenty times as long with two threads as with one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread in the block."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
