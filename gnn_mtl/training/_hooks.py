"""``StepHooks``: what acts on the losses and gradients of the active tasks beside their sum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from gnn_mtl.gradients import GramianMode


class StepHooks:
    """Where loss balancing, gradient surgery and moments per task act inside the active group.

    Derive from it, override what is needed and give it to :func:`fit` or :func:`train_step`; the
    methods here change nothing. Any aggregator is one already (:class:`AggregatorHooks`). A
    schedule only selects the tasks, so every method is given those that take part in the update at
    hand (active, labelled in the batch, with a finite loss): keep state by task id, not by
    position. There are three places to act, each dearer than the one before:

    - :meth:`weigh_losses`, from losses alone;
    - :meth:`weigh_gradients`, from the inner products of the gradients too: one Gramian and one
      backward pass however many tasks (:meth:`gramian_mode`);
    - :meth:`combine`, from the gradients: a backward pass per task (:meth:`wants_gradients`).
    """

    rows_are_steps: ClassVar[bool] = False
    """Whether what :meth:`combine` returns is subtracted, times the learning rate, as it is, with
    decoupled weight decay and without clipping; else it is the gradient that Adam is given."""

    weighs_heads: ClassVar[bool] = False
    """Whether the weights of :meth:`weigh_gradients` are of the losses, so that heads see them."""

    looks_after: ClassVar[bool] = False
    """Whether :meth:`observe_after` is to be told the losses after the update: a forward pass."""

    @property
    def name(self) -> str:
        """What checkpoints call it: a training goes on with the hooks it began with."""
        return type(self).__name__

    def weigh_losses(
        self,
        step: int,  # noqa: ARG002
        tasks: tuple[int, ...],  # noqa: ARG002
        losses: Tensor,  # noqa: ARG002
    ) -> Tensor | None:
        """Return factors ``[S]`` of the losses, next to the schedule's; None = 1.

        They reach the heads too.

        Args:
            step: Batches trained on before this one.
            tasks: The tasks that take part.
            losses: Their losses ``[S]``, unweighted and detached.
        """
        return None

    def gramian_mode(self, step: int) -> GramianMode | None:  # noqa: ARG002
        """Return which gradients' Gramian :meth:`weigh_gradients` is to be given; None = none."""
        return None

    def known_weights(self, step: int, tasks: tuple[int, ...]) -> Tensor | None:  # noqa: ARG002
        """Return weights ``[S]`` that need no new Gramian at this step; None = measure one."""
        return None

    def weigh_gradients(
        self,
        step: int,  # noqa: ARG002
        tasks: tuple[int, ...],  # noqa: ARG002
        losses: Tensor,  # noqa: ARG002
        gramian: Tensor,  # noqa: ARG002
    ) -> Tensor | None:
        """Return weights ``[S]`` of the gradients; None = 1.

        Only the shared parameters are concerned, unless ``weighs_heads``.

        Args:
            step: Batches trained on before this one.
            tasks: The tasks that take part, those whose gradient is not finite left out.
            losses: Their losses ``[S]``, unweighted and detached.
            gramian: Inner products of the gradients of their weighted losses, float64 ``[S, S]``; a
                task without a gradient in this batch has a row of zeros. Where one that is not
                finite was left out, they are exact, of the last layer's or all shared parameters.
        """
        return None

    def wants_gradients(self, step: int) -> bool:  # noqa: ARG002
        """Return whether :meth:`combine` is to be asked at this step: a backward pass per task."""
        return False

    def set_layout(self, sizes: list[int]) -> None:
        """Learn how many columns of the rows of :meth:`combine` belong to each parameter."""

    def combine(
        self,
        step: int,  # noqa: ARG002
        tasks: tuple[int, ...],  # noqa: ARG002
        jacobian: Tensor,  # noqa: ARG002
    ) -> Tensor | None:
        """Return weights ``[S]`` of the rows, or rows ``[S, P]`` to be summed instead of them.

        Only the shared parameters are concerned, to which P counts those of adapters too (0 in the
        rows of tasks of other groups): heads keep the gradients of their own losses.
        Weights cost one backward pass more, so that weights of 1 change no bit; so does None.

        Args:
            step: Batches trained on before this one.
            tasks: The tasks that take part, those whose gradient is not finite left out.
            jacobian: The gradients of their weighted losses by the shared parameters ``[S, P]``.
        """
        return None

    def observe_after(self, step: int, tasks: tuple[int, ...], losses: Tensor) -> None:
        """Take in the losses ``[S]`` of the tasks that took part, on the same batch, afterwards.

        The same dropout is drawn and batch normalisation counts the batch once.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training needs: tensors and JSON values.

        With a :meth:`gramian_mode` it is asked for at every update, too, and loaded again where a
        gradient turns out not to be finite: let it be a copy.
        """
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
