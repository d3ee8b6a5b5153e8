"""What is here, what is missing, and what for."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import torch

from gnn_mtl._core import doctor
from gnn_mtl._core.doctor import NEEDED, OPTIONAL, examine

PROJECT = Path(__file__).parents[2] / "pyproject.toml"


@pytest.fixture(scope="module")
def project():
    if not PROJECT.exists():
        pytest.skip("pyproject.toml is not beside the tests")
    return tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]


def names(requirements):
    return {re.match(r"[A-Za-z0-9_.-]+", line).group() for line in requirements}


def found(name):
    (finding,) = [finding for finding in examine() if finding.name == name]
    return finding


def test_what_is_needed_is_what_the_package_depends_on(project):
    assert set(NEEDED) == names(project["dependencies"])


def test_remedies_name_extras_that_bring_the_part(project):
    extras = project["optional-dependencies"]
    for name, (extra, _) in OPTIONAL.items():
        assert name in names(extras[extra])
        assert found(name).remedy == f"pip install 'gnn-mtl[{extra}]'"


def test_everything_needed_is_here():
    findings = examine()
    assert all(finding.is_here for finding in findings if finding.is_needed)
    assert len({finding.name for finding in findings}) == len(findings)
    needed = [finding.is_needed for finding in findings]
    assert needed == sorted(needed, reverse=True)
    assert found("torch").found == metadata.version("torch")
    for finding in findings:
        assert finding.purpose
        assert finding.is_here or finding.remedy


def test_missing_parts_are_found_missing(monkeypatch):
    version = metadata.version

    def without(name):
        if name in ("numba", "ray"):
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(doctor.metadata, "version", without)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    for name, needed in (("numba", True), ("ray", False), ("chromium", False)):
        finding = found(name)
        assert (finding.is_here, finding.found, finding.is_needed) == (False, "", needed)


def test_a_browser_is_found_by_either_name(monkeypatch):
    places = {"google-chrome": "/opt/chrome"}
    monkeypatch.setattr(doctor.shutil, "which", places.get)
    assert found("chromium").found == "/opt/chrome"


def test_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Some GPU")
    assert (found("cuda").is_here, found("cuda").found) == (True, "Some GPU")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert not found("cuda").is_here

    def broken():
        raise RuntimeError("driver too old")

    monkeypatch.setattr(torch.cuda, "is_available", broken)
    assert (found("cuda").is_here, found("cuda").found) == (False, "driver too old")
