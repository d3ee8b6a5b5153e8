"""Ranks come from torchrun's environment."""

from gnn_mtl._core.ranks import is_main, rank, world_size


def test_one_process_without_torchrun(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert (rank(), world_size(), is_main()) == (0, 1, True)


def test_torchrun_says_which(monkeypatch):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert (rank(), world_size(), is_main()) == (3, 4, False)
