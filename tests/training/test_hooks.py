"""Hooks on losses and gradients: PCGrad, AdaTask and GradNorm that really act."""

import pytest
import torch

from gnn_mtl._core.errors import NonFiniteWarning, ShapeError, UsageError
from gnn_mtl.graph import NeighborLoader
from gnn_mtl.schedulers import (
    ColoringScheduler,
    JointScheduler,
    RandomGroupsScheduler,
    StaticScheduler,
)
from gnn_mtl.tasks import Grouping
from gnn_mtl.training import Optimizers, Skipped, StepHooks, Train, fit, group_updates, train_step

T = 5
SCHEDULES = {
    "joint": lambda: JointScheduler(T),
    "coloring": lambda: ColoringScheduler(T, refresh_period=5, tau=-0.2, ema_beta=0.5),
    "all": lambda: RandomGroupsScheduler(T, sizes=(3, 2), use="all_groups_per_batch"),
}


class Ones(StepHooks):
    """Asks for everything and changes nothing."""

    def weigh_losses(self, step, tasks, losses):
        return torch.ones(len(tasks))

    def wants_gradients(self, step):
        return True

    def combine(self, step, tasks, jacobian):
        return torch.ones(len(tasks))


class Watch(Ones):
    def combine(self, step, tasks, jacobian):
        return None


class PCGrad(StepHooks):
    """Yu et al., NeurIPS 2020, in a fixed order: within the active group only."""

    def __init__(self):
        self.projections = 0
        self.groups = set()

    def wants_gradients(self, step):
        return True

    def combine(self, step, tasks, jacobian):
        self.groups.add(tasks)
        rows = jacobian.clone()
        for i in range(len(rows)):
            for j in range(len(rows)):
                dot = rows[i] @ jacobian[j]
                if i != j and dot < 0:
                    rows[i] -= dot / (jacobian[j] @ jacobian[j]) * jacobian[j]
                    self.projections += 1
        return rows


class AdaTask(StepHooks):
    """Yang et al., AAAI 2023: Adam moments of its own for every task, counted by task."""

    rows_are_steps = True

    def __init__(self, betas=(0.9, 0.999), eps=1e-8):
        self.betas, self.eps, self.moments = betas, eps, {}

    def wants_gradients(self, step):
        return True

    def combine(self, step, tasks, jacobian):
        rows = []
        for task, g in zip(tasks, jacobian, strict=True):
            n, m, v = self.moments.get(task, (0, torch.zeros_like(g), torch.zeros_like(g)))
            m, v = m.lerp(g, 1 - self.betas[0]), v * self.betas[1] + (1 - self.betas[1]) * g * g
            self.moments[task] = (n + 1, m, v)
            unbiased = v / (1 - self.betas[1] ** (n + 1))
            rows.append(m / (1 - self.betas[0] ** (n + 1)) / (unbiased.sqrt() + self.eps))
        return torch.stack(rows)

    def state_dict(self):
        return {str(task): list(moments) for task, moments in self.moments.items()}

    def load_state_dict(self, state):
        self.moments = {int(task): tuple(moments) for task, moments in state.items()}


class GradNorm(StepHooks):
    """Chen et al., ICML 2018, alpha 0, for the first steps only: SON-GOKU's warm start."""

    def __init__(self, num_tasks, steps, rate=0.1):
        self.weights, self.steps, self.rate = torch.ones(num_tasks), steps, rate

    def weigh_losses(self, step, tasks, losses):
        return self.weights[list(tasks)] if step < self.steps else None

    def wants_gradients(self, step):
        return step < self.steps

    def combine(self, step, tasks, jacobian):
        norms = jacobian.norm(dim=1)
        own = norms / self.weights[list(tasks)]
        self.weights[list(tasks)] -= self.rate * (norms - norms.mean()).sign() * own / own.mean()
        self.weights = self.weights.clamp(min=0.01)
        self.weights *= len(self.weights) / self.weights.sum()

    def state_dict(self):
        return {"weights": self.weights}

    def load_state_dict(self, state):
        self.weights = state["weights"]


HOOKS = {
    "pcgrad": PCGrad, "adatask": AdaTask, "gradnorm": lambda: GradNorm(T, steps=6),
}  # fmt: skip


@pytest.fixture
def batch(tiny):
    return NeighborLoader(tiny, num_neighbors=[3, 2], batch_size=30, seed=1).batch(0, 0)


@pytest.mark.parametrize("hooks", [StepHooks, Ones, Watch])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_hooks_that_change_nothing_change_no_bit(
    schedule, hooks, tiny, new_model, budget, assert_same_weights
):
    """With dropout, batch norm and a clip: the same backward pass, not one that is nearly so."""
    models = [new_model() for _ in range(2)]
    config = budget(grad_clip=0.1)
    fit(models[0], tiny, SCHEDULES[schedule](), config)
    fit(models[1], tiny, SCHEDULES[schedule](), config, hooks=hooks())
    assert_same_weights(*models)


@pytest.mark.parametrize("name", HOOKS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_they_act_in_a_whole_training(name, schedule, tiny, new_model, budget, assert_same_weights):
    """The released scheduler swallows its base method: with and without it are the same."""
    models = [new_model() for _ in range(2)]
    fit(models[0], tiny, SCHEDULES[schedule](), budget())
    hooks = HOOKS[name]()
    fit(models[1], tiny, SCHEDULES[schedule](), budget(), hooks=hooks)
    assert_same_weights(*models, equal=False)
    if name == "pcgrad":
        assert hooks.projections > 0


@pytest.mark.parametrize("name", HOOKS)
@pytest.mark.parametrize("stop", [3, 7])
def test_their_state_is_resumed(
    name, stop, tiny, new_model, budget, tmp_path, assert_same_weights, monkeypatch
):
    import gnn_mtl.training._loop as loop

    straight, cut = new_model(), new_model(1)
    fit(straight, tiny, SCHEDULES["coloring"](), budget(), hooks=HOOKS[name]())
    original = loop._Training._step

    def step(self, batch, started):
        if self.at.step == stop:
            self._save()
            raise KeyboardInterrupt
        original(self, batch, started)

    options = {"hooks": HOOKS[name](), "checkpoints": tmp_path}
    with monkeypatch.context() as patch:
        patch.setattr(loop._Training, "_step", step)
        with pytest.raises(KeyboardInterrupt):
            fit(new_model(), tiny, SCHEDULES["coloring"](), budget(), **options)
    arguments = {"checkpoints": tmp_path, "resume": True}
    with pytest.raises(UsageError, match="pass the `hooks`"):
        fit(cut, tiny, SCHEDULES["coloring"](), budget(), **arguments)
    fit(cut, tiny, SCHEDULES["coloring"](), budget(), hooks=HOOKS[name](), **arguments)
    assert_same_weights(straight, cut)


def test_surgery_sees_the_active_group_only(tiny, new_model, budget):
    groups = ((0, 1), (2, 3, 4))
    hooks = PCGrad()
    fit(new_model(), tiny, StaticScheduler(T, Grouping.of(groups, T)), budget(), hooks=hooks)
    assert hooks.groups == set(groups)


def test_a_warm_start_ends(tiny, new_model, budget):
    """All tasks for six steps with balanced losses, then colour classes without."""
    seen = []

    class Warm(GradNorm):
        def combine(self, step, tasks, jacobian):
            seen.append((step, tasks))
            super().combine(step, tasks, jacobian)

    schedule = ColoringScheduler(T, refresh_period=3, tau=-0.2, warmup_steps=6)
    fit(new_model(), tiny, schedule, budget(), hooks=Warm(T, steps=6))
    assert seen == [(step, tuple(range(T))) for step in range(6)]


def test_gradnorm_evens_out_the_norms(new_model, batch):
    model, spread = new_model(dropout=0.0, norm="layer"), []
    optimizers = Optimizers(model, Train(lr=1e-6))

    class Spread(GradNorm):
        def combine(self, step, tasks, jacobian):
            spread.append(float(jacobian.norm(dim=1).std() / jacobian.norm(dim=1).mean()))
            super().combine(step, tasks, jacobian)

    hooks = Spread(T, steps=100, rate=0.02)
    for step in range(60):
        train_step(model, batch, range(T), optimizers, hooks=hooks, step=step)
    assert spread[-1] < 0.2 * spread[0]


def test_adatask_on_one_task_is_adam(new_model, budget, batch):
    models = [new_model(dropout=0.0, norm="layer") for _ in range(2)]
    both = [Optimizers(m, budget(optimizer="adamw", weight_decay=0.1)) for m in models]
    hooks = AdaTask()
    for step in range(8):
        train_step(models[0], batch, (3,), both[0])
        train_step(models[1], batch, (3,), both[1], hooks=hooks, step=step)
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_rows_replace_the_gradient_and_leave_the_heads(new_model, budget, batch):
    seen = []

    class First(StepHooks):
        def wants_gradients(self, step):
            return True

        def combine(self, step, tasks, jacobian):
            seen.append((step, tasks, jacobian))
            return (
                torch.tensor([1.0, 0.0, 0.0]) if step else jacobian * torch.tensor([[1], [0], [0]])
            )

    for step in range(2):
        models = [new_model(norm="layer", dropout=0.0) for _ in range(2)]
        both = [Optimizers(m, budget()) for m in models]
        train_step(models[0], batch, (0, 2, 3), both[0], hooks=First(), step=step)
        train_step(models[1], batch, (0, 2, 3), both[1])
        shared, plain = (
            torch.cat([p.grad.flatten() for p in m.shared_parameters()]) for m in models
        )
        assert seen[step][:2] == (step, (0, 2, 3))
        jacobian = seen[step][2]
        torch.testing.assert_close(shared, jacobian[0], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(jacobian.sum(dim=0), plain, rtol=1e-4, atol=1e-6)
        assert not torch.allclose(shared, plain)
        for a, b in zip(*(m.head_parameters() for m in models), strict=True):
            torch.testing.assert_close(a, b)


def test_weights_of_losses_reach_the_heads_and_join_those_of_the_schedule(new_model, budget, batch):
    class Double(StepHooks):
        def weigh_losses(self, step, tasks, losses):
            assert losses.shape == (2,)
            assert not losses.requires_grad
            return torch.tensor([2.0, 3.0])

    models = [new_model(norm="layer", dropout=0.0) for _ in range(2)]
    both = [Optimizers(m, budget()) for m in models]
    train_step(models[0], batch, (1, 4), both[0], weights=(0.5, 0.5), hooks=Double())
    train_step(models[1], batch, (1, 4), both[1], weights=(1.0, 1.5))
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(a, b)
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize("answer", [None, torch.ones(4)])
def test_a_task_whose_gradient_is_broken_is_left_out_with_its_name(
    answer, new_model, budget, batch
):
    class Break(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            grad = grad.clone()
            grad[:, 1] = torch.where(grad[:, 1] == 0, 0.0, torch.inf)
            return grad

    class Ask(Ones):
        def combine(self, step, tasks, jacobian):
            assert tasks == (0, 2, 3, 4)
            assert torch.isfinite(jacobian).all()
            return answer

    models = [new_model(norm="layer", dropout=0.0) for _ in range(2)]
    both = [Optimizers(m, budget()) for m in models]
    heads = models[0].heads.forward
    models[0].heads.forward = lambda *a: Break.apply(heads(*a))
    before = [p[1].detach().clone() for p in models[0].head_parameters()]
    skipped = Skipped()
    with pytest.warns(NonFiniteWarning, match="gradient of 1 task.*spam"):
        live, losses = train_step(
            models[0], batch, range(T), both[0], hooks=Ask(), skipped=skipped,
            label_names=("ham", "spam", "eggs", "cheese", "parrot"),
        )  # fmt: skip
    assert live == (0, 2, 3, 4)
    assert len(losses) == 4
    assert skipped.losses == {1: 1}
    assert all(
        torch.equal(p[1], old) for p, old in zip(models[0].head_parameters(), before, strict=True)
    )
    train_step(models[1], batch, (0, 2, 3, 4), both[1])
    for a, b in zip(models[0].shared_parameters(), models[1].shared_parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_answers_of_another_shape_are_refused(new_model, budget, batch):
    class Wrong(Ones):
        def combine(self, step, tasks, jacobian):
            return jacobian[:1]

    class WrongToo(StepHooks):
        def weigh_losses(self, step, tasks, losses):
            return torch.ones(7)

    model = new_model()
    for hooks in (Wrong(), WrongToo()):
        with pytest.raises(ShapeError, match="should return shape"):
            train_step(model, batch, range(T), Optimizers(model, budget()), hooks=hooks)


def test_every_update_on_a_batch_asks(new_model, budget, batch):
    from gnn_mtl.schedulers import Update

    asked = []

    class Ask(Ones):
        def combine(self, step, tasks, jacobian):
            asked.append((step, tasks))

    updates = [Update((0, 1), (1.0, 1.0)), Update((2, 3, 4), (1.0, 1.0, 1.0))]
    model = new_model()
    group_updates(model, batch, updates, Optimizers(model, budget()), hooks=Ask(), step=9)
    assert asked == [(9, (0, 1)), (9, (2, 3, 4))]
