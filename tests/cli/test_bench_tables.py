"""``gnn-mtl bench``: rows that measure different things do not share a table."""

from gnn_mtl.cli._bench import _tables

ROWS = [
    {"mode": "one", "tasks": 112, "cost": 1.23456, "error": None},
    {"mode": "two", "tasks": 112, "cost": 2.0, "error": None},
    {"what": "collection", "speedup": 400.0},
]


def test_a_table_for_each_kind_of_row():
    first, second = _tables("x", ROWS)
    assert [column.header for column in first.columns] == ["mode", "cost"]
    assert list(first.columns[1].cells) == ["1.235", "2"]
    assert first.title == "bench x: tasks 112"
    assert [column.header for column in second.columns] == ["what", "speedup"]
    assert second.title == "bench x"


def test_rows_that_are_all_alike_keep_their_columns():
    (table,) = _tables("x", [{"a": 1}, {"a": 1}])
    assert [column.header for column in table.columns] == ["a"]
    assert table.row_count == 2
