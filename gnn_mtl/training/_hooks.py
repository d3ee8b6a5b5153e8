"""``StepHooks``: what acts on the losses and gradients of the active tasks beside their sum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor


class StepHooks:
    """Where loss balancing, gradient surgery and moments per task act inside the active group.

    Derive from it, override what is needed and give it to :func:`fit` or :func:`train_step`; the
    methods here change nothing. A schedule only selects the tasks, so every method is given those
    that take part in the update at hand (active, labelled in the batch, with a finite loss): keep
    state by task id, not by position. For example,

    - GradNorm, DWA: :meth:`weigh_losses`; where weights come from gradient norms, :meth:`combine`
      sees them and may return None. A warm start asks for the first steps only.
    - PCGrad and other surgery: :meth:`combine`, from the gradients to weights or to other rows.
    - AdaTask: :meth:`combine` returns each task's own Adam step, with ``rows_are_steps``.
    """

    rows_are_steps: ClassVar[bool] = False
    """Whether what :meth:`combine` returns is subtracted, times the learning rate, as it is, with
    decoupled weight decay and without clipping; else it is the gradient that Adam is given."""

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

    def wants_gradients(self, step: int) -> bool:  # noqa: ARG002
        """Return whether :meth:`combine` is to be asked at this step: a backward pass per task."""
        return False

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

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training needs: tensors and JSON values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
