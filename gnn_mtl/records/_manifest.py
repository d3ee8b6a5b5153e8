"""Where, when and with what a run is made: command, commit, versions, hardware."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from gnn_mtl.records._schema import FORMAT, FORMAT_VERSION

PACKAGES = (
    "gnn-mtl", "torch", "torch-geometric", "numpy", "scipy", "networkx", "numba", "scikit-learn",
    "ogb", "safetensors", "pydantic", "cvxpy", "torchjd", "ray", "pyg-lib",
)  # fmt: skip


def manifest(
    *, dataset: Mapping[str, Any], seed: int, command: Sequence[str] | None = None
) -> dict[str, Any]:
    """Return the manifest of a run that starts now, for ``RunWriter.write_manifest``.

    Args:
        dataset: ``name, sha256, num_nodes, num_edges, num_tasks, label_names`` of the graph.
        seed: Seed of the run.
        command: Command line as a list; None takes this process's.

    Returns:
        Plain JSON values. The commit is that of the repository around the working directory, or
        else around this package; None without git. A GPU is named only if torch is already
        imported, so that asking costs nothing.
    """
    commit, dirty = _commit()
    return {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv if command is None else command),
        "commit": commit,
        "dirty": dirty,
        "packages": {"python": platform.python_version(), **_versions()},
        "hardware": _hardware(),
        "dataset": dict(dataset),
        "seed": seed,
    }


def _commit() -> tuple[str | None, bool | None]:
    """Commit and whether tracked files differ from it; of the working directory or the package."""
    for folder in (Path.cwd(), Path(__file__).parent):
        commit = _git(folder, "rev-parse", "HEAD")
        if commit:
            changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
            return commit, None if changed is None else bool(changed)
    return None, None


def _git(folder: Path, *arguments: str) -> str | None:
    git = shutil.which("git")
    if git is None:
        return None
    try:
        # A file-system monitor is a program that the repository's own settings may name.
        answer = subprocess.run(  # noqa: S603
            [git, "-c", "core.fsmonitor=false", "--no-optional-locks", *arguments],
            cwd=folder, capture_output=True, text=True, timeout=10, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def _versions() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _hardware() -> dict[str, Any]:
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory_gb": _memory_gb(),
        "gpus": _gpus(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, OSError, ValueError):
        return None


def _gpus() -> list[str]:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
