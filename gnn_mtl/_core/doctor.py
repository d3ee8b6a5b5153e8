"""What ``gnn-mtl doctor`` finds: versions, optional parts and what each missing one disables."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata

NEEDED = {
    "torch": "training", "torch-geometric": "attention layers, Data objects", "numpy": "arrays",
    "scipy": "spectral features, tests", "networkx": "graph drawing", "pandas": "OGB's CSV files",
    "ogb": "OGB conventions",
    "numba": "fast sampling", "scikit-learn": "OGB's evaluator", "rich": "tables",
    "jinja2": "the report", "tyro": "the command line", "pydantic": "recipes",
    "safetensors": "checkpoints", "platformdirs": "cache folders", "filelock": "run folders",
    "threadpoolctl": "spectral features",
}  # fmt: skip
OPTIONAL = {
    "matplotlib": ("plot", "plots of the report"),
    "cvxpy": ("sdp", "the SDP oracle"),
    "torchjd": ("jd", "gradient aggregators of TorchJD"),
    "tensorboard": ("tb", "TensorBoard logs"),
    "wandb": ("wandb", "Weights & Biases logs"),
    "ray": ("ray", "sweeps on a cluster"),
}


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report."""

    name: str
    found: str
    purpose: str
    remedy: str
    is_here: bool
    is_needed: bool


def examine() -> list[Finding]:
    """Return what is here and what is missing, needed parts first."""
    findings = [
        Finding("python", platform.python_version(), "everything", "install Python 3.11 or newer",
                sys.version_info >= (3, 11), True),
    ]  # fmt: skip
    for name, purpose in NEEDED.items():
        version = _version(name)
        findings.append(
            Finding(name, version or "", purpose, "pip install gnn-mtl", bool(version), True)
        )
    for name, (extra, purpose) in OPTIONAL.items():
        version = _version(name)
        remedy = f"pip install 'gnn-mtl[{extra}]'"
        findings.append(Finding(name, version or "", purpose, remedy, bool(version), False))
    browser = shutil.which("chromium") or shutil.which("google-chrome") or ""
    findings.append(
        Finding("chromium", browser, "the browser test of the report", "apt install chromium",
                bool(browser), False)
    )  # fmt: skip
    findings.append(_cuda())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    findings.append(Finding("cores", str(cores), "sampling and training", "", True, False))
    return findings


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _cuda() -> Finding:
    try:
        import torch

        found = torch.cuda.get_device_name(0) if torch.cuda.is_available() else ""
    except (ImportError, RuntimeError) as error:
        found = str(error)[:60]
        return Finding("cuda", found, "training on a GPU", "repair torch", False, False)
    remedy = "a CUDA build of torch and a GPU; the CPU works"
    return Finding("cuda", found, "training on a GPU", remedy, bool(found), False)
