"""One seed, one tree."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnn_mtl._core.seeding import derive_seed, generator

PATHS = st.lists(
    st.one_of(st.integers(), st.text(alphabet="abc0123456789 ", max_size=6)), max_size=4
)


def test_the_seed_is_a_hash_of_the_path():
    """Written out by hand: this is what makes old runs reproducible."""
    digest = hashlib.blake2b(b"7\x1fstr:batches\x1fint:3", digest_size=8).digest()
    assert derive_seed(7, "batches", 3) == int.from_bytes(digest, "little") % 2**63
    assert derive_seed(0, "init") == 7374303093332426892


@given(st.integers(), PATHS, st.integers(), PATHS)
def test_different_paths_differ(seed, path, other_seed, other_path):
    one, other = derive_seed(seed, *path), derive_seed(other_seed, *other_path)
    assert 0 <= one < 2**63
    assert (one == other) == ((seed, path) == (other_seed, other_path))


def test_a_number_is_not_its_digits():
    assert derive_seed(0, 1) != derive_seed(0, "1")
    assert derive_seed(0, "a", "b") != derive_seed(0, "ab")
    assert derive_seed(0) != derive_seed(0, "")


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8])
def test_numpy_integers_are_integers(kind):
    assert derive_seed(kind(3), "epoch", kind(5)) == derive_seed(3, "epoch", 5)


def test_a_generator_is_its_own_stream():
    before = generator(3, "a").random(5)
    generator(3, "b").random(1000)
    np.random.default_rng(0).random(10)
    np.testing.assert_array_equal(generator(3, "a").random(5), before)
    assert not np.array_equal(generator(3, "b").random(5), before)
    philox = np.random.Generator(np.random.Philox(key=derive_seed(3, "a")))
    np.testing.assert_array_equal(philox.random(5), before)
