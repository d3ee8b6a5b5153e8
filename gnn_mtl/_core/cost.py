"""``CostMeter``: plain counters of the work a measurement or a training did."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass
class CostMeter:
    """Counts passes through the shared network; whoever does one adds it here.

    A training step is one forward, one backward and one optimizer step, so these add up to the cost
    of a method in steps on any machine. Work below a whole pass (the last layer's products, heads,
    pushed closed forms) shows in ``label_gradients`` alone: its price is measured, not counted.

    Attributes:
        forwards: Passes from the features to the logits.
        backwards: Passes from a loss back through every shared layer asked for.
        jvps: Forward-mode passes along one direction.
        optimizer_steps: Updates of the parameters.
        label_gradients: Gradients of one task's loss on one batch, however they were obtained.
        nodes: Seed nodes summed over the forwards.
    """

    forwards: int = 0
    backwards: int = 0
    jvps: int = 0
    optimizer_steps: int = 0
    label_gradients: int = 0
    nodes: int = 0

    def add(self, other: CostMeter) -> None:
        """Add another meter's counters."""
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)

    def to_dict(self) -> dict[str, int]:
        """Return the counters by name."""
        return asdict(self)
