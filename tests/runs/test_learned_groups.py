"""Groups that come out of a training, as a run is configured; adapters as heads of a run."""

import math

import pytest
import torch

from gnn_mtl._core.errors import ConfigError, UsageError
from gnn_mtl.cli._group import LEARNED as OFFERED
from gnn_mtl.grouping import METHODS
from gnn_mtl.nn import MLP, AdapterHeads, Adapters
from gnn_mtl.runs import LEARNED, DataMapGroups, RunConfig, learned_groups, load_trained, train
from gnn_mtl.tasks import Grouping
from gnn_mtl.training import DMTG

GROUPS = ((0, 2, 4), (1, 3, 5))


@pytest.mark.parametrize("options", [DMTG(num_groups=2), DataMapGroups(num_groups=2, nodes=50)])
def test_groups_are_a_function_of_the_configuration(quick, graph, options):
    random_state = torch.get_rng_state()
    found = learned_groups(quick(), options)
    assert found == learned_groups(quick(), options)
    assert found.num_tasks == graph.num_tasks
    assert len(found) <= 2
    assert found.method in OFFERED
    assert torch.equal(torch.get_rng_state(), random_state)


def test_data_maps_tell_easy_from_rare_labels(quick):
    assert len(learned_groups(quick(), DataMapGroups(num_groups=3))) == 3


def test_what_is_offered():
    assert set(LEARNED) == set(OFFERED)
    assert not set(LEARNED) & set(METHODS)


def test_refusals(quick):
    with pytest.raises(UsageError, match="at most the 6 tasks"):
        learned_groups(quick(), DMTG(num_groups=7))
    with pytest.raises(UsageError, match="MLPEncoder"):
        learned_groups(quick(encoder=MLP(hidden_channels=4)), DMTG(num_groups=2))
    for wrong in ({"num_groups": 0}, {"nodes": 0}, {"fuzziness": 1.0}, {"fuzziness": math.inf}):
        with pytest.raises(UsageError, match="fuzziness"):
            DataMapGroups(**wrong)


def test_a_run_with_adapters(quick, tmp_path):
    file = tmp_path / "groups.json"
    Grouping.of(GROUPS, 6).save(file)
    config = quick(head=Adapters(file=str(file), rank=3))
    file.unlink()  # the configuration holds the groups
    assert RunConfig.from_dict(config.to_dict()) == config
    run = train(config, tmp_path / "run")
    model = load_trained(run.path)[2]
    assert isinstance(model.heads, AdapterHeads)
    assert all(bool(adapter.up.any()) for adapter in model.heads.adapters)
    plain = train(quick(), tmp_path / "plain")
    more = sum(p.numel() for p in model.group_parameters())
    assert run.summary.num_parameters == plain.summary.num_parameters + more


def test_adapters_in_a_recipe(tmp_path):
    with pytest.raises(ConfigError, match="`groups`"):
        RunConfig.from_dict({"head": {"kind": "adapters"}})
    with pytest.raises(ConfigError, match="rank"):
        RunConfig.from_dict({"head": {"kind": "adapters", "groups": [[0, 1]], "rank": 0}})
    found = RunConfig.from_dict({"head": {"kind": "adapters", "groups": [[0], [1]], "rank": 4}})
    assert found.head == Adapters(groups=((0,), (1,)), rank=4)
