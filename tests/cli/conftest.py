"""The command line in this process, and a small dataset for it."""

import pytest

QUICK = {
    "--encoder.hidden-channels": 8, "--features.dim": 4, "--epochs": 4, "--batch-size": 48,
    "--device": "cpu", "--train.num-neighbors": 4, "--train.eval-every": 2,
    "--train.num-workers": 0, "--train.log-every": 1, "--train.probe-batch-size": 96,
    "--train.checkpoint-seconds": 0,
}  # fmt: skip


@pytest.fixture(scope="session")
def quick_flags():
    """Flags for twelve small steps."""
    return [str(item) for pair in QUICK.items() for item in pair]


@pytest.fixture
def train(cli, stored, quick_flags):
    """Return a function that trains twelve steps; flags given come on top."""

    def run(*flags):
        return cli("train", "--dataset", stored, *quick_flags, *flags)

    return run
