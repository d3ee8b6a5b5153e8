"""What a training cost, counted while it runs."""

from __future__ import annotations

import contextlib
import resource
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from gnn_mtl._core.cost import CostMeter
from gnn_mtl.training._skipped import Skipped


@dataclass
class Cost:
    """Counters of one training; they go on after a resume.

    Attributes:
        seconds: Wall time of training, evaluation and refreshes.
        steps: Optimizer steps; a step none of whose tasks has a label here is not one. A schedule
            that uses all groups on every batch makes several a batch.
        label_gradients: Sum over the steps of the tasks that took part.
        probe_label_gradients: Task gradients measured beside the updates: for refreshes, and for
            the Gramians of an aggregator.
        refreshes: Windows of several groups, or probed, that the scheduler opened.
        probes: Of those, the ones gradients were measured for.
        refresh_seconds: Wall time of refreshes (sampling, probe, colouring).
        eval_seconds: Wall time of evaluations.
        peak_rss_mb: Peak resident memory of the process while it trained.
        skipped_losses: Losses left out because they, or their gradients, were not finite.
        skipped_updates: Updates left out because the shared gradient was not finite.
        skipped_scores: Labels left out of validations because their logits were not finite.
        forwards: Forward passes of steps and probes, evaluations aside.
        backwards: Backward passes through the shared layers.
        jvps: Forward-mode passes.
    """

    seconds: float = 0.0
    steps: int = 0
    label_gradients: int = 0
    probe_label_gradients: int = 0
    refreshes: int = 0
    probes: int = 0
    refresh_seconds: float = 0.0
    eval_seconds: float = 0.0
    peak_rss_mb: float = 0.0
    skipped_losses: int = 0
    skipped_updates: int = 0
    skipped_scores: int = 0
    forwards: int = 0
    backwards: int = 0
    jvps: int = 0

    def count(self, meter: CostMeter) -> None:
        """Add the passes that a step or a probe made."""
        self.forwards += meter.forwards
        self.backwards += meter.backwards
        self.jvps += meter.jvps

    def count_skipped(self, skipped: Skipped) -> None:
        """Take over what was left out so far."""
        self.skipped_losses = sum(skipped.losses.values())
        self.skipped_updates = skipped.updates
        self.skipped_scores = sum(skipped.scores.values())

    def to_dict(self) -> dict[str, float]:
        """Return the counters with the peak memory as of now."""
        self.peak_rss_mb = max(self.peak_rss_mb, peak_rss_mb())
        return asdict(self)

    def add(self, other: Cost) -> None:
        """Add another training's counters (peak memory: the larger)."""
        peak = max(self.peak_rss_mb, other.peak_rss_mb)
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)
        self.peak_rss_mb = peak


def peak_rss_mb() -> float:
    """Return the peak resident memory in MB since :func:`reset_peak_rss`, or of the process."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1e3
    except (OSError, ValueError):
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def reset_peak_rss() -> None:
    """Count the peak anew, where the system can (Linux), so that a run shows its own."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
