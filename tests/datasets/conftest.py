"""Where the real graphs are that may not be committed."""

from pathlib import Path

import pytest

SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data():
    """Return the folder of real graphs kept beside the repository; skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"real graphs are not at {SHARED}")
    return SHARED
