"""The public surface: what is there, that it is documented, that asking for it costs nothing."""

import ast
import dataclasses
import importlib
import inspect
import json
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

import gnn_mtl

NAMES = """
AdaTask Adapters Affinity Aggregator AggregatorConfig AggregatorHooks AlignedMTL CAGrad CSCGraph
Coloring ColoringScheduler ConFIG DMTG DWA DualProj EMTL FAMO FairGrad Features GATv2 GCN GIN
GeometricMean GradNorm GradOPS GradVac GradientEMA GramianMethod Grouping IMTLG IMTLL Joint
JointScheduler LabelModel Linear LinearHeads MGDA MLP MLPHead MLPHeads Mean MiniBatch NashMTL
NeighborLoader NeighborSampler PCGrad ParetoMTL PreferenceMethod ProximalAffinity PyGEncoder Random
RandomGroupsScheduler RandomWeights RowAggregator RunConfig SAGE SAGEEncoder SIGN SLAW STCH
Selective SelectiveScheduler Separate Single Static StaticScheduler StepHooks SubsetOracle
SubsetTable Sum Sweep TaskGradients TaskGraph TaskRowAdam TaskScheduler TaskTensioner TorchJD Train
UPGrad Uncertainty WPCGrad Weighting __version__ adam_scale blend branch_model build_report
compare_runs conflict_graph cross_learn draw_probe_nodes estimate_affinity estimate_cosines evaluate
evaluate_split exact_logits fetch_ogb find_runs fit fork_merge gradient_cosine group_tasks
import_npz import_ogb inference_cost interference label_cooccurrence layer_conflict learn_groups
list_datasets load_dataset load_ogb load_snap masked_bce merge_models planted preference_vectors
probe read_run run_sweep sample_overlap score_table search_groups structural_features task_gradients
task_gramian train train_shallow
"""
PACKAGE = Path(gnn_mtl.__file__).parent
ROOMS = sorted(
    folder.name
    for folder in PACKAGE.iterdir()
    if (folder / "__init__.py").exists() and not folder.name.startswith("_")
)


def test_the_public_names_are_these():
    """A change here is a change for users: say so in CHANGELOG.md."""
    assert gnn_mtl.__all__ == sorted(NAMES.split())
    assert set(dir(gnn_mtl)) == set(NAMES.split())


@pytest.mark.parametrize("name", sorted(NAMES.split()))
def test_every_public_name_is_there_and_says_what_it_is(name):
    value = getattr(gnn_mtl, name)
    if name != "__version__":
        assert inspect.getdoc(value)
        assert value.__module__.startswith("gnn_mtl.")
        assert name == value.__name__


def test_other_names_are_not():
    with pytest.raises(AttributeError, match="no attribute 'Trainer'"):
        _ = gnn_mtl.Trainer


def test_type_checkers_see_the_same_names():
    """Under TYPE_CHECKING the names are imported one by one; the two lists must not drift apart."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    imported = {
        (node.module, name.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module.startswith("gnn_mtl.")
        for name in node.names
    }
    lazy = {(f"gnn_mtl.{room}", name) for room, names in gnn_mtl._ROOMS.items() for name in names}
    assert imported == lazy


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_exports_what_it_lists(room):
    module = importlib.import_module(f"gnn_mtl.{room}")
    assert module.__doc__
    assert len(set(module.__all__)) == len(module.__all__)
    for name in module.__all__:
        assert not name.startswith("_")
        assert hasattr(module, name)


def test_importing_the_package_is_cheap():
    script = (
        "import json, sys, gnn_mtl\n"
        "gnn_mtl.__version__, dir(gnn_mtl)\n"
        "heavy = ['torch', 'numpy', 'scipy', 'numba', 'pydantic', 'torch_geometric']\n"
        "print(json.dumps([name for name in heavy if name in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == []


# docstrings and signatures


def public_callables():
    """Every function, class and public method that some room exports."""
    found = {}
    for room in ROOMS:
        module = importlib.import_module(f"gnn_mtl.{room}")
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value):
                found[f"{room}.{name}"] = (value, value.__init__)
                for key, member in vars(value).items():
                    function = getattr(member, "__func__", member)
                    if not key.startswith("_") and inspect.isfunction(function):
                        found[f"{room}.{name}.{key}"] = (function, function)
            elif inspect.isfunction(value):
                found[f"{room}.{name}"] = (value, value)
    return found


CALLABLES = public_callables()


def documented(text):
    """Names in the Args section of a Google docstring, or None without one."""
    section = re.search(r"^Args:\n((?:[ \t]+.*\n|\n)*)", text + "\n", flags=re.MULTILINE)
    if section is None:
        return None
    lines = section.group(1).splitlines()
    indent = min(len(line) - len(line.lstrip()) for line in lines if line.strip())
    entries = [line[indent:] for line in lines if line.strip() and line[indent] != " "]
    return [
        name.strip().lstrip("*") for entry in entries for name in entry.split(":")[0].split(",")
    ]


def test_args_sections_name_the_parameters():
    wrong = {}
    for name, (described, called) in CALLABLES.items():
        names = documented(inspect.getdoc(described) or "")
        parameters = [p for p in inspect.signature(called).parameters if p not in ("self", "cls")]
        if names not in (None, parameters):
            wrong[name] = (names, parameters)
    assert wrong == {}


def test_the_check_of_args_sections_finds_something():
    sections = [
        name for name, (each, _) in CALLABLES.items() if documented(inspect.getdoc(each) or "")
    ]
    assert len(sections) > 50
    text = "What.\n\nArgs:\n    a: One.\n        More: of it.\n    *b: Two.\n\nReturns:\n    c: No."
    assert documented(text) == ["a", "b"]
    assert documented("What.") is None


def test_public_means_documented():
    assert [
        name for name, (described, _) in CALLABLES.items() if not inspect.getdoc(described)
    ] == []


@pytest.mark.parametrize(
    "config", [gnn_mtl.RunConfig, gnn_mtl.Train, gnn_mtl.Features, gnn_mtl.Coloring, gnn_mtl.SAGE]
)
def test_fields_of_configurations_are_documented(config):
    """The string under a field is its help on the command line."""
    bases = [base for base in config.__mro__ if dataclasses.is_dataclass(base)]
    bodies = [ast.parse(inspect.getsource(base).strip()).body[0].body for base in bases]
    described = {
        node.target.id
        for body in bodies
        for node, after in pairwise(body)
        if isinstance(node, ast.AnnAssign)
        and isinstance(after, ast.Expr)
        and isinstance(after.value, ast.Constant)
    }
    assert described == {field.name for field in dataclasses.fields(config)}
