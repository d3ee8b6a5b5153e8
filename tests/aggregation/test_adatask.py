"""AdaTask: Adam by task, bounded memory, layers, and state before and after the first call."""

import math

import pytest
import torch

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.aggregation import AdaTask

MODES = pytest.mark.parametrize("moments", ["exact", "layer"])


def gradients(steps, size=7, tasks=3, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(steps, tasks, size, generator=generator, dtype=dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.0, 0.5)])
def test_one_task_is_torchs_adam(dtype, tolerance, betas):
    x = torch.linspace(-1, 1, 7, dtype=dtype).requires_grad_()
    adam = torch.optim.Adam([x], lr=0.1, betas=betas, eps=1e-3)
    ours = x.detach().clone()
    aggregator = AdaTask(beta1=betas[0], beta2=betas[1], eps=1e-3).build(5)
    for gradient in gradients(20, dtype=dtype)[:, 0]:
        x.grad = gradient.clone()
        ours = ours - 0.1 * aggregator(gradient[None], tasks=[4])
        adam.step()
        torch.testing.assert_close(ours, x.detach(), rtol=tolerance, atol=tolerance)
    assert aggregator.rows_are_steps


def test_tasks_are_adams_of_their_own_whose_steps_are_summed():
    """Task 1 comes in late and takes part every third time: its own count, its own correction."""
    aggregator = AdaTask().build(3)
    xs = [torch.zeros(7, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    adams = [torch.optim.Adam([x], lr=1.0) for x in xs]
    for step, rows in enumerate(gradients(24)):
        tasks = [2, 0] if step % 3 else [1, 2, 0] if step > 8 else [0]
        found = aggregator.rows(rows[tasks], tasks=tasks)
        total = torch.zeros(7, dtype=torch.float64)
        for task, row in zip(tasks, found, strict=True):
            before = xs[task].detach().clone()
            xs[task].grad = rows[task].clone()
            adams[task].step()
            torch.testing.assert_close(row, before - xs[task].detach(), rtol=1e-9, atol=1e-12)
            total += row
        if step == 23:
            assert aggregator.state["steps"].tolist() == [24, 5, 21]
    assert torch.equal(total, found.sum(dim=0))


def test_first_steps_are_signs_whenever_they_come():
    aggregator = AdaTask().build(2)
    for rows in gradients(50):
        aggregator.rows(rows[:1], tasks=[0])
    late = torch.tensor([[3.0, -0.1, 20.0, 1.0, -1.0, 1.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(aggregator.rows(late, tasks=[1]), late.sign(), rtol=1e-6, atol=0)


@MODES
def test_multiplying_a_tasks_loss_changes_nothing(moments):
    one, other = AdaTask(moments=moments).build(3), AdaTask(moments=moments).build(3)
    factors = torch.tensor([1e-3, 1.0, 1e4], dtype=torch.float64)[:, None]
    for aggregator in (one, other):
        aggregator.set_layout([3, 4])
    for rows in gradients(10):
        torch.testing.assert_close(other.rows(factors * rows), one.rows(rows), rtol=1e-4, atol=1e-6)


def test_layers_divide_by_their_own_root_mean_square():
    aggregator = AdaTask(moments="layer", beta2=0.5, eps=1e-12).build(4)
    aggregator.set_layout([1, 2])
    first = aggregator.rows(torch.tensor([[3.0, 4.0, 0.0]], dtype=torch.float64), tasks=[2])
    # root mean squares 3 and sqrt(16 / 2)
    torch.testing.assert_close(first[0], torch.tensor([1, math.sqrt(2), 0], dtype=torch.float64))
    second = aggregator.rows(torch.tensor([[-1.0, 0.0, 2.0]], dtype=torch.float64), tasks=[2])
    # mean squares (9 + 2 * 1) / 3 and (8 + 2 * 2) / 3: decay 1/2, bias-corrected
    expected = [-1 / math.sqrt(11 / 3), 0, 2 / math.sqrt(4)]
    torch.testing.assert_close(second[0], torch.tensor(expected, dtype=torch.float64))
    assert not aggregator.rows_are_steps
    assert aggregator.state["second"].shape == (4, 2)
    whole = AdaTask(moments="layer").build(1).rows(torch.tensor([[3.0, 4.0, 0.0]]))
    torch.testing.assert_close(whole.square().mean(), torch.tensor(1.0))


def test_too_much_memory_is_refused_with_the_size_the_tasks_and_the_way_round():
    exact = AdaTask(moments="exact", max_memory_mb=1).build(100)
    with pytest.raises(UsageError, match=r"100 tasks for 2000 .* 2 MB.*1;.*'layer'"):
        exact.rows(torch.ones(1, 2000), tasks=[3])
    with pytest.raises(UsageError, match="100 tasks for 2000"):
        exact.set_layout([1000, 1000])
    assert exact.rows(torch.ones(1, 1000), tasks=[3]).shape == (1, 1000)
    # 2 x 100 x 2000 x 4 bytes = 1.5 MB; in double precision 3
    fits = AdaTask(moments="exact", max_memory_mb=2).build(100)
    fits.rows(torch.ones(1, 2000))
    with pytest.raises(UsageError, match="3 MB"):
        AdaTask(moments="exact", max_memory_mb=2).build(100).rows(torch.ones(1, 2000).double())


def test_auto_is_exact_if_it_fits_and_says_so_once_the_layout_is_known():
    for size, steps in ((1000, True), (2000, False)):
        aggregator = AdaTask(max_memory_mb=1).build(100)
        aggregator.set_layout([size // 2, size // 2])
        assert aggregator.rows_are_steps is steps
        same = AdaTask(max_memory_mb=1).build(100)
        same.rows(torch.ones(1, size))
        assert same.rows_are_steps is steps
        assert ("second" in aggregator.state) is not steps


def test_memory_grows_with_the_tasks_that_were_trained():
    aggregator = AdaTask(max_memory_mb=100).build(500)
    aggregator.rows(torch.ones(2, 1000), tasks=[7, 400])
    tensors = [value for value in aggregator.state_dict().values() if torch.is_tensor(value)]
    assert sum(value.nbytes for value in tensors) < 2 * 2 * 1000 * 4 + 20 * 500


@pytest.mark.parametrize("laid_out", [False, True])
@pytest.mark.parametrize("allocated", [False, True])
@MODES
def test_a_resumed_one_goes_on_bit_for_bit(moments, allocated, laid_out):
    config = AdaTask(moments=moments)
    straight, resumed = config.build(4), config.build(4)
    runs = [(rows[: 1 + step % 3], [3, 0, 1][: 1 + step % 3]) for step, rows in
            enumerate(gradients(14, dtype=torch.float32))]  # fmt: skip
    straight.set_layout([3, 4])
    if laid_out:
        resumed.set_layout([3, 4])
    for rows, tasks in runs[:7]:
        straight.rows(rows, tasks=tasks)
    if allocated and laid_out:  # it has been on its way already, elsewhere
        resumed.rows(torch.ones(4, 7))
    saved = straight.state_dict()
    kept = {name: value.clone() for name, value in saved.items() if torch.is_tensor(value)}
    resumed.load_state_dict(saved)
    if laid_out:
        resumed.set_layout([3, 4])
    for rows, tasks in runs[7:]:
        expected = straight.rows(rows, tasks=tasks)
        assert torch.equal(resumed.rows(rows, tasks=tasks), expected)
    for name, value in kept.items():
        assert torch.equal(saved[name], value), name
    ours, theirs = resumed.state_dict(), straight.state_dict()
    assert ours.keys() == theirs.keys()
    assert torch.equal(resumed.dominance().nan_to_num(), straight.dominance().nan_to_num())


def test_a_state_before_the_first_call_resets_one_that_has_gone_on():
    for moments in ("exact", "layer", "auto"):
        empty, used = AdaTask(moments=moments).build(2), AdaTask(moments=moments).build(2)
        first = used.rows(torch.tensor([[1.0, 2.0]]))
        used.rows(torch.tensor([[5.0, -2.0]]))
        used.load_state_dict(empty.state_dict())
        assert torch.equal(used.rows(torch.tensor([[1.0, 2.0]])), first)


def test_states_of_others_are_refused():
    exact, layer = AdaTask(moments="exact").build(2), AdaTask(moments="layer").build(2)
    for aggregator in (exact, layer):
        aggregator.set_layout([2, 3])
        aggregator.rows(torch.ones(2, 5))
    with pytest.raises(UsageError, match="moments"):
        exact.load_state_dict(layer.state_dict())
    with pytest.raises(UsageError, match="for 2 tasks"):
        exact.load_state_dict(AdaTask(moments="exact").build(3).state_dict())
    for config in (AdaTask(moments="exact"), AdaTask(moments="layer"), AdaTask()):
        other = config.build(2)
        other.set_layout([5])
        saved = (layer if config.moments == "layer" else exact).state_dict()
        with pytest.raises(ShapeError, match="tensors: 2"):
            other.load_state_dict(saved)
    auto = AdaTask().build(2)
    auto.load_state_dict(layer.state_dict())
    assert not auto.rows_are_steps


@MODES
def test_a_task_without_a_gradient_rests(moments):
    aggregator = AdaTask(moments=moments).build(3)
    first = aggregator.rows(gradients(1, dtype=torch.float32)[0])
    before = aggregator.state_dict()
    rows = torch.stack([torch.zeros(7), torch.ones(7)])
    found = aggregator.rows(rows, tasks=[1, 2])
    assert torch.equal(found[0], torch.zeros(7))
    after = aggregator.state_dict()
    for name in ("steps", "updates", "second"):
        if name in before:
            assert torch.equal(before[name][:2], after[name][:2])
            assert not torch.equal(before[name][2], after[name][2])
    if moments == "exact":
        assert torch.equal(before["moments.1"], after["moments.1"])
    assert torch.equal(aggregator.rows(torch.zeros(2, 7)), torch.zeros(2, 7))
    assert first.shape == (3, 7)


def test_dominance_is_the_share_of_squared_steps():
    """Task 0's gradients keep their sign: steps of size 1. Task 1's alternate: small steps."""
    aggregator, squares = AdaTask().build(3), torch.zeros(2, dtype=torch.float64)
    assert bool(aggregator.dominance().isnan().all())
    for step in range(40):
        rows = torch.ones(2, 5, dtype=torch.float64)
        rows[1] *= -1000 if step % 2 else 1000
        found = aggregator.rows(rows)
        squares = 0.999 * squares + 0.001 * found.square().mean(dim=1)
    shares = aggregator.dominance()
    torch.testing.assert_close(shares[:2], squares / squares.sum())
    assert shares[0] > 0.9
    assert shares[2].isnan()


def test_half_precision_keeps_its_moments_in_single():
    aggregator = AdaTask().build(1)
    found = aggregator.rows(torch.full((1, 4), 1e-5, dtype=torch.bfloat16))
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), torch.ones(1, 4), rtol=1e-2, atol=0)
    assert aggregator.state_dict()["moments.0"].dtype == torch.float32


def test_what_cannot_be_used_is_refused():
    aggregator = AdaTask().build(2)
    for sizes in ([], [3, 0]):
        with pytest.raises(UsageError, match="positive"):
            aggregator.set_layout(sizes)
    with pytest.raises(UsageError, match="finite"):
        aggregator.rows(torch.tensor([[1.0, math.nan]]))
    with pytest.raises(ShapeError, match="one row a task"):
        aggregator.rows(torch.ones(3))
    with pytest.raises(UsageError, match="distinct"):
        aggregator.rows(torch.ones(2, 3), tasks=[1, 1])
    aggregator.set_layout([1, 2])
    with pytest.raises(ShapeError, match=r"3 parameters, tensors: 2\. Found 4"):
        aggregator.rows(torch.ones(2, 4))
    with pytest.raises(ShapeError, match="tensors: 2"):
        aggregator.set_layout([2, 1])


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"moments": "factored"}, "auto, exact, layer"),
        ({"max_memory_mb": 0}, "positive"),
        ({"eps": math.nan}, "positive"),
        ({"beta1": 1.0}, "beta1"),
        ({"beta2": -0.1}, "beta2"),
    ],
)
def test_options_are_checked(options, match):
    with pytest.raises(UsageError, match=match):
        AdaTask(**options)
