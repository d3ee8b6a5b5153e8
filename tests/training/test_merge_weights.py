"""Merging: cases made by hand, the papers' formulas entry by entry, heads that stay their own."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.nn import SAGE, Adapters, LabelModel, Linear, MLPHead, exact_logits
from gnn_mtl.tasks import Grouping
from gnn_mtl.training import (
    average_states,
    low_rank_states,
    merge_models,
    refresh_batch_norm,
    ties_states,
    training_loader,
)

T = 5
GROUPS = Grouping.of([[0, 3], [1], [2, 4]], T)


def state(seed, rows=4):
    g = torch.Generator().manual_seed(seed)
    return {
        "w": torch.randn(rows, 3, generator=g),
        "b": torch.randn(rows, generator=g),
        "count": torch.tensor(seed),
    }


def ties_by_the_book(base, states, density, scale):
    """Entry by entry: trim, elect, disjoint mean (arXiv 2306.01708, section 4)."""
    names = ["w", "b"]
    start = np.concatenate([base[n].double().numpy().ravel() for n in names])
    vectors = []
    for one in states:
        tau = np.concatenate([one[n].double().numpy().ravel() for n in names]) - start
        threshold = sorted(abs(tau), reverse=True)[max(1, round(density * len(tau))) - 1]
        vectors.append(np.where(abs(tau) >= threshold, tau, 0.0))
    merged = []
    for entries in zip(*vectors, strict=True):
        sign = np.sign(sum(entries))
        kept = [entry for entry in entries if entry != 0 and np.sign(entry) == sign]
        merged.append(sum(kept) / len(kept) if kept else 0.0)
    return start + scale * np.array(merged)


def test_average_by_hand():
    one, two = {"w": torch.tensor([1.0, 5.0])}, {"w": torch.tensor([3.0, 1.0])}
    assert average_states([one, two])["w"].tolist() == [2.0, 3.0]
    assert average_states([one, two], [3, 1])["w"].tolist() == [1.5, 4.0]


def test_a_weight_of_one_is_a_copy():
    states = [state(1), {**state(2), "w": torch.full((4, 3), torch.nan)}]
    found = average_states(states, [2.0, 0.0])
    assert all(torch.equal(found[name], states[0][name]) for name in found)
    assert found["w"].data_ptr() != states[0]["w"].data_ptr()
    assert average_states([state(1), state(2)], [1, 3])["count"] == 2  # of the heaviest


@pytest.mark.parametrize("density", [0.1, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("scale", [1.0, 0.4])
def test_ties_entry_by_entry(density, scale):
    base, states = state(0), [state(1), state(2), state(3)]
    found = ties_states(base, states, density=density, scale=scale)
    flat = torch.cat([found["w"].flatten(), found["b"]]).double().numpy()
    np.testing.assert_allclose(flat, ties_by_the_book(base, states, density, scale), rtol=1e-6)
    assert found["count"] == base["count"]


def test_ties_by_hand():
    """Two models agree on entry 0, quarrel on entry 1, and entry 2 is noise that is trimmed."""
    base = {"w": torch.zeros(4)}
    one, two = torch.tensor([2.0, 3.0, 0.1, 0.0]), torch.tensor([4.0, -1.0, 0.0, 0.2])
    found = ties_states(base, [{"w": one}, {"w": two}], density=0.5)
    assert found["w"].tolist() == [3.0, 3.0, 0.0, 0.0]


def test_low_rank_by_hand():
    """Each model's change keeps its largest singular direction; vectors are averaged."""
    base = {"w": torch.zeros(2, 2), "b": torch.zeros(2)}
    one = {"w": torch.diag(torch.tensor([4.0, 1.0])), "b": torch.tensor([2.0, 0.0])}
    two = {"w": torch.diag(torch.tensor([1.0, 6.0])), "b": torch.tensor([0.0, 0.0])}
    found = low_rank_states(base, [one, two], rank=1)
    torch.testing.assert_close(found["w"], torch.diag(torch.tensor([2.0, 3.0])))
    assert found["b"].tolist() == [1.0, 0.0]


def test_full_rank_is_the_average():
    base, states = state(0), [state(1), state(2)]
    found, expected = low_rank_states(base, states, rank=3), average_states(states)
    torch.testing.assert_close(found["w"], expected["w"])
    assert np.linalg.matrix_rank(low_rank_states(base, states, rank=1)["w"] - base["w"]) == 2


@given(number=st.integers(1, 6), seed=st.integers(0, 99))
def test_equal_models_merge_to_themselves(number, seed):
    same, base = [state(seed)] * number, state(seed + 1)
    for found in (
        average_states(same),
        ties_states(base, same, density=1.0),
        low_rank_states(base, same, rank=3),
    ):
        for name in ("w", "b"):
            torch.testing.assert_close(found[name], same[0][name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: average_states([]), UsageError, "at least one"),
        (lambda: average_states([state(0)], [0.0]), UsageError, "one of them positive"),
        (lambda: average_states([state(0)], [1.0, 2.0]), UsageError, "1 numbers"),
        (lambda: average_states([state(0), state(1)], [2.0, -1.0]), UsageError, "not negative"),
        (lambda: average_states([state(0), state(0, rows=5)]), ShapeError, r"w of shape \(4, 3\)"),
        (lambda: average_states([state(0), {}]), ShapeError, "and None"),
        (lambda: ties_states(state(0), [state(1)], density=0), UsageError, "density"),
        (lambda: low_rank_states(state(0), [state(1)], rank=0), UsageError, "rank"),
    ],
)
def test_bad_states(call, error, message):
    with pytest.raises(error, match=message):
        call()


def model(num_tasks, seed, head=None):
    torch.manual_seed(seed)
    encoder = SAGE(hidden_channels=8).build(6)
    return LabelModel(encoder, (head or Linear()).build(8, num_tasks)).eval()


@pytest.mark.parametrize("head", [Linear(), MLPHead(hidden_channels=2)], ids=["linear", "mlp"])
@pytest.mark.parametrize("wide", [True, False])
def test_heads_are_those_of_their_own_group(tiny, head, wide):
    """Merging models of one trunk predicts as each group's model does, in one forward."""
    models = [model(T if wide else len(g), 3 + n, head) for n, g in enumerate(GROUPS.groups)]
    for other in models[1:]:
        other.encoder.load_state_dict(models[0].encoder.state_dict())
    merged = merge_models(models, GROUPS)
    nodes = np.arange(60)
    found = exact_logits(merged, tiny, nodes)
    for one, group in zip(models, GROUPS.groups, strict=True):
        own = exact_logits(one, tiny, nodes)
        columns = list(group) if wide else list(range(len(group)))
        np.testing.assert_allclose(found[:, list(group)], own[:, columns], rtol=1e-5, atol=1e-6)


def test_trunks_are_merged_by_the_method():
    base, models = model(T, 0), [model(T, seed) for seed in (1, 2, 3)]
    parts = [m.encoder.state_dict() for m in (base, *models)]
    names = [name for name, _ in base.encoder.named_parameters()]
    only = [{n: part[n] for n in names} for part in parts]
    expected = {
        "average": average_states(only[1:]),
        "ties": ties_states(only[0], only[1:], density=0.3, scale=0.5),
        "low_rank": low_rank_states(only[0], only[1:], rank=2),
    }
    for method, state_dict in expected.items():
        merged = merge_models(
            models, GROUPS, method=method, base=base, density=0.3, scale=0.5, rank=2
        )
        for name, parameter in merged.encoder.named_parameters():
            assert torch.equal(parameter, state_dict[name]), (method, name)
    first = merge_models(models, GROUPS, weights=[1, 0, 0])
    assert all(
        torch.equal(a, b)
        for a, b in zip(first.encoder.parameters(), models[0].encoder.parameters(), strict=True)
    )


def test_owners_of_overlapping_groups():
    groups = Grouping.of([[0, 1], [1, 2]], 3)
    models = [model(2, 1), model(2, 2)]
    assert torch.equal(merge_models(models, groups).heads.bias[1], models[0].heads.bias[1])
    found = merge_models(models, groups, owners=[0, 1, 1]).heads.bias
    assert torch.equal(found, torch.cat([models[0].heads.bias[:1], models[1].heads.bias]))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: merge_models([model(T, 0)], GROUPS), UsageError, "one model per group, 3"),
        (lambda: merge_models([model(T, 0)] * 3, GROUPS, method="max"), UsageError, "low_rank"),
        (lambda: merge_models([model(T, 0)] * 3, GROUPS, method="ties"), UsageError, "`base`"),
        (
            lambda: merge_models([model(T, 0)] * 3, GROUPS, method="ties", weights=[1, 1, 1]),
            UsageError, "`weights` are for method='average'",
        ),
        (lambda: merge_models([model(3, 0)] * 3, GROUPS), ShapeError, "for its 2 tasks"),
        (
            lambda: merge_models([model(T, 0), model(T, 0), model(T, 0, MLPHead())], GROUPS),
            ShapeError, "one shape",
        ),
        (
            lambda: merge_models([model(T, 0, Adapters(groups=GROUPS.groups))] * 3, GROUPS),
            UsageError, "adapters",
        ),
        (
            lambda: merge_models([model(T, 0)] * 3, GROUPS, owners=[1, 1, 1, 1, 1]),
            UsageError, "a group that holds it",
        ),
    ],
)  # fmt: skip
def test_bad_models(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_batch_norms_measured_anew(tiny, budget):
    """Running statistics are the mean over batches; weights, modes and random state stay."""
    one = model(T, 0)
    before = {name: p.clone() for name, p in one.named_parameters()}
    loader = training_loader(tiny, one, budget(), seed=0)
    batches = list(loader.epoch_batches(0))
    inputs = []
    handle = one.encoder.norms[0].register_forward_hook(lambda m, i, o: inputs.append(i[0].clone()))
    random_state = torch.get_rng_state()
    assert refresh_batch_norm(one, batches) == 2
    handle.remove()
    norm = one.encoder.norms[0]
    mean = torch.stack([x.mean(0) for x in inputs]).mean(0)
    variance = torch.stack([x.var(0) for x in inputs]).mean(0)
    torch.testing.assert_close(norm.running_mean, mean)
    torch.testing.assert_close(norm.running_var, variance)
    assert norm.momentum == 0.1
    assert not any(module.training for module in one.modules())
    assert all(torch.equal(p, before[name]) for name, p in one.named_parameters())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_no_batch_norm_no_pass():
    plain = LabelModel(SAGE(hidden_channels=8, norm="layer").build(6), Linear().build(8, T))

    def never():
        raise AssertionError
        yield

    assert refresh_batch_norm(plain, never()) == 0
