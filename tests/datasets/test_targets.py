"""Label stores against the dense matrix they stand for."""

from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gnn_mtl._core.errors import LabelError, ShapeError, UsageError
from gnn_mtl.datasets import make_targets
from gnn_mtl.datasets._bits import BitMatrix
from gnn_mtl.datasets._targets import (
    BitTargets,
    ListTargets,
    check_tasks,
    labelled_nodes,
    positive_lists,
)

SHAPES = st.tuples(st.integers(1, 20), st.integers(1, 19))
LABELS = SHAPES.flatmap(
    lambda shape: hnp.arrays(np.float64, shape, elements=st.sampled_from([0.0, 1.0, np.nan]))
)


def list_store(dense, observed):
    labels = sp.csr_matrix(np.nan_to_num(dense).astype(np.uint8))
    labels.eliminate_zeros()
    return ListTargets.from_csr(labels, observed)


def assert_same(store, dense, nodes):
    positive, observed = store.gather(nodes)
    assert positive.dtype == observed.dtype == np.bool_
    np.testing.assert_array_equal(observed, ~np.isnan(dense[nodes]))
    np.testing.assert_array_equal(positive, dense[nodes] == 1)


@given(st.tuples(st.integers(0, 20), st.integers(1, 40)), st.data())
@settings(max_examples=60, deadline=None)
def test_bit_matrix_equals_the_dense_one(shape, data):
    dense = data.draw(hnp.arrays(np.bool_, shape))
    bits = BitMatrix.from_dense(dense)
    np.testing.assert_array_equal(bits.gather(slice(None)), dense)
    np.testing.assert_array_equal(bits.any_in_row(), dense.any(axis=1))
    columns = np.array(data.draw(st.permutations(range(shape[1]))))[: max(1, shape[1] // 2)]
    chosen = bits.select(columns)
    np.testing.assert_array_equal(chosen.gather(slice(None)), dense[:, columns])
    np.testing.assert_array_equal(chosen.any_in_row(), dense[:, columns].any(axis=1))
    again = chosen.select(np.arange(len(columns))[::-1])
    np.testing.assert_array_equal(again.gather(slice(None)), dense[:, columns[::-1]])
    packed = BitMatrix(chosen.packed(slice(None)), len(columns))
    np.testing.assert_array_equal(packed.gather(slice(None)), dense[:, columns])


@given(LABELS, st.data())
@settings(max_examples=80, deadline=None)
def test_stores_equal_dense_labels(dense, data):
    nodes = np.array(data.draw(st.lists(st.integers(0, len(dense) - 1), max_size=30)), dtype=int)
    order = np.array(data.draw(st.permutations(range(dense.shape[1]))))
    chosen = order[: max(1, len(order) // 2)]
    known = BitMatrix.from_dense(~np.isnan(dense))
    for store in (make_targets(dense), list_store(dense, known)):
        assert_same(store, dense, nodes)
        assert_same(store.select(chosen), dense[:, chosen], nodes)
        assert_same(store.select(order).select(np.argsort(order)), dense, nodes)
        np.testing.assert_array_equal(labelled_nodes(store), (~np.isnan(dense)).any(axis=1))
        indptr, tasks = positive_lists(store.select(chosen))
        wanted = [np.flatnonzero(row == 1).tolist() for row in dense[:, chosen]]
        assert [tasks[a:b].tolist() for a, b in pairwise(indptr)] == wanted


@given(SHAPES.flatmap(lambda s: st.tuples(hnp.arrays(np.bool_, s), hnp.arrays(np.bool_, s[0]))))
@settings(max_examples=40, deadline=None)
def test_lists_of_labelled_nodes_need_no_unpacking(case):
    dense, labelled = case
    store = list_store(dense, labelled).select(np.arange(dense.shape[1])[::-1])
    indptr, tasks = positive_lists(store)
    wanted = [np.flatnonzero(row).tolist() for row in (dense & labelled[:, None])[:, ::-1]]
    assert [tasks[a:b].tolist() for a, b in pairwise(indptr)] == wanted


def test_every_way_to_give_labels_means_the_same():
    dense = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]])
    for y in (
        dense, dense.astype(bool), dense.astype(np.float16), dense.tolist(), sp.csr_matrix(dense),
        sp.coo_array(dense.astype(float)), sp.csc_matrix(dense),
    ):  # fmt: skip
        assert_same(make_targets(y), dense.astype(float), np.array([2, 0, 0]))
    column = make_targets([1, 0, np.nan])
    assert column.num_tasks == 1
    assert_same(column, np.array([[1.0], [0.0], [np.nan]]), np.arange(3))


def test_observed_masks_join_with_nan():
    y = np.array([[1, np.nan], [1, 0], [0, 1]])
    by_node = make_targets(y, observed=np.array([True, False, True]))
    assert_same(by_node, np.array([[1, np.nan], [np.nan, np.nan], [0, 1]]), np.arange(3))
    by_cell = make_targets(y, observed=np.array([[1, 1], [0, 1], [1, 1]], dtype=bool))
    assert_same(by_cell, np.array([[1, np.nan], [np.nan, 0], [0, 1]]), np.arange(3))
    sparse = make_targets(sp.csr_matrix(np.nan_to_num(y)), observed=~np.isnan(y))
    assert_same(sparse, y, np.arange(3))


def test_whole_rows_take_one_byte_a_node():
    y = np.array([[1, 0], [np.nan, np.nan]])
    assert isinstance(make_targets(y).observed, np.ndarray)
    assert isinstance(make_targets([[1, np.nan]]).observed, BitMatrix)


def test_a_million_nodes_with_500_labels_stay_small():
    rows = 20_000
    store = make_targets(np.zeros((rows, 500), dtype=np.uint8))
    assert store.positive.bits.nbytes + store.observed.nbytes <= 64 * rows
    rare = sp.random_array((rows, 5_000), density=1e-4, rng=np.random.default_rng(0)) != 0
    assert isinstance(make_targets(rare), ListTargets)
    assert isinstance(make_targets(sp.csr_matrix(np.ones((4, 9)))), BitTargets)


@pytest.mark.parametrize(
    ("y", "words"),
    [
        ([[0, 2]], "2.* node 0, task 1"),
        ([[0.0], [0.5]], "0.5 at node 1, task 0"),
        ([[-1]], "-1"),
        ([[np.inf]], "inf"),
        (np.zeros((2, 3, 4)), "shape"),
        (np.zeros((2, 0)), "T >= 1"),
        ([["a"]], "dtype"),
        (sp.csr_matrix([[0.0, 3.0]]), "3.0 at node 0, task 1"),
        (sp.csr_matrix([[np.nan, 1.0]]), "observed"),
    ],
)
def test_labels_that_are_none(y, words):
    with pytest.raises(LabelError, match=words):
        make_targets(y)


@pytest.mark.parametrize("mask", [np.ones(3, dtype=bool), np.ones((2, 2)), np.ones((2, 3), bool)])
def test_observed_of_another_shape_or_kind(mask):
    with pytest.raises(LabelError, match="observed"):
        make_targets(np.zeros((2, 2)), observed=mask)


@pytest.mark.parametrize("tasks", [[], [0, 0], [3], [-1], [0.5]])
def test_task_ids_that_are_none(tasks):
    with pytest.raises(UsageError):
        check_tasks(tasks, 3)


def test_bit_matrix_refuses_other_shapes():
    with pytest.raises(ShapeError):
        BitMatrix(np.zeros((3, 2), dtype=np.uint8), 17)
    with pytest.raises(ShapeError):
        BitMatrix.from_dense(np.zeros(3, dtype=bool))
    with pytest.raises(UsageError):
        BitMatrix.zeros(2, 4).select(np.array([1])).set_rows(slice(None), np.ones((2, 1), bool))
