"""Gradients as the gradients room hands them over, and small training loops without a trainer."""

import numpy as np
import pytest
import torch


@pytest.fixture(scope="session")
def random_rows():
    """Return a function from (step, num_tasks, num_parameters) to that step's gradients."""

    def make(step, num_tasks, num_parameters=4):
        generator = torch.Generator().manual_seed(1000 + step)
        return torch.randn(num_tasks, num_parameters, generator=generator)

    return make


@pytest.fixture(scope="session")
def losses_around():
    """Return a function from a schedule to losses around its last updates, some not observed."""

    def make(schedule):
        rng = np.random.default_rng(schedule.step)
        rows = len(schedule.updates()) + schedule.needs_last_losses
        losses = rng.uniform(0.2, 1.0, (rows, schedule.num_tasks))
        losses[:, rng.random(schedule.num_tasks) < 0.1] = np.nan
        return losses

    return make


@pytest.fixture(scope="session")
def drive(observed, random_rows, losses_around):
    """Return a function that runs a schedule for some steps and returns its active tasks.

    ``rows`` is a function from the step to the gradients of all tasks.
    """

    def run(schedule, steps, rows=None):
        active = []
        for _ in range(steps):
            tasks = schedule.needs_probe()
            if tasks:
                step = schedule.step
                found = random_rows(step, schedule.num_tasks) if rows is None else rows(step)
                schedule.observe(observed(found[list(tasks)], tasks))
            active.append(schedule.active_tasks())
            if schedule.needs_active_gradients:
                found = random_rows(1000 + schedule.step, schedule.num_tasks)
                schedule.observe_active(observed(found[list(active[-1])], active[-1]))
            if schedule.needs_losses:
                schedule.observe_losses(losses_around(schedule))
        return active

    return run
