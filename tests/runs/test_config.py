"""A configuration survives every form it is written in, and says what is wrong with a bad one."""

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gnn_mtl._core.errors import ConfigError, UsageError
from gnn_mtl.aggregation import AdaTask, AggregatorConfig, TorchJD, UPGrad
from gnn_mtl.nn import GCN, GIN, MLP, SAGE, SIGN, Adapters, GATv2, Linear, MLPHead
from gnn_mtl.runs import KINDS, Features, RunConfig, kind_class
from gnn_mtl.schedulers import Coloring, Joint, Random, Selective, Separate, Single, Static
from gnn_mtl.training import Train

SCHEDULERS = [
    Joint(scale="mean"),
    Single(tasks=(4, 1)),
    Single(num_sampled=3),
    Random(sizes=(3, 2), reweight=True),
    Random(follow=((0, (5,)), (7, (3, 2))), refresh_period=None),
    Static(file="groups.json"),
    Static(groups=((0, 2), (1, 3)), scale="tasks_over_active"),
    Coloring(
        refresh_period=8, tau=0.1, ema_beta=0.5, tau_schedule="log", warmup_steps=3,
        anneal_steps=9, coloring="dsatur", min_coverage=2, order="random",
    ),
    Coloring(
        rule="density", edge_share=0.2, hysteresis=0.1, coloring="tabu", coloring_iterations=9,
        max_group_size=3, warm_start=True, max_refresh_period=64, use="inner_outer", outer_lr=0.3,
    ),
    Separate(file="groups.json"),
    Separate(groups=((0, 2), (1, 2, 3)), init="base", base="runs/joint", heads="fresh"),
    Selective(warmup_steps=9, regroup_period=3, credit_last=False, preference=0.5),
]  # fmt: skip
ENCODERS = [
    SAGE(hidden_channels=16, norm="layer"), GCN(num_layers=3), GATv2(hidden_channels=12),
    GIN(dropout=0.0), SIGN(hops=2), MLP(hidden_channels=4),
]  # fmt: skip
HEADS = [Linear(), MLPHead(hidden_channels=7), Adapters(groups=((0, 2), (1,)), rank=2)]
TRAIN = Train(
    epochs=7, max_steps=50, num_neighbors=(5, -1), replace=True, optimizer="adam", lr=0.003,
    lr_schedule="linear", grad_clip=1.0, pos_weight="sqrt", monitor="auroc", patience=None,
    device="cpu", deterministic=True, probe="full",
)  # fmt: skip
BASE = RunConfig(
    dataset="planted:num_nodes=100", root="data", name="mine", seed=7,
    features=Features(use="own", dim=3), train=TRAIN,
)  # fmt: skip
CONFIGS = [
    RunConfig(),
    BASE,
    *(dataclasses.replace(BASE, scheduler=each) for each in SCHEDULERS),
    *(dataclasses.replace(BASE, encoder=each) for each in ENCODERS),
    *(dataclasses.replace(BASE, head=each) for each in HEADS),
]


def name_of(config):
    return "-".join(part.kind for part in (config.scheduler, config.encoder, config.head))


def test_every_kind_is_tried():
    tried = {"scheduler": SCHEDULERS, "encoder": ENCODERS, "head": HEADS}
    for family, members in tried.items():
        assert {type(each) for each in members} == set(KINDS[family].values())
    for family, classes in KINDS.items():
        for kind, cls in classes.items():
            assert cls.kind == kind
            assert kind_class(family, kind) is cls


# round trips


@pytest.mark.parametrize("config", CONFIGS, ids=name_of)
def test_through_plain_values(config):
    plain = config.to_dict()
    assert RunConfig.from_dict(plain) == config
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["scheduler"]["kind"] == config.scheduler.kind
    assert RunConfig.from_dict(plain).to_dict() == plain


@pytest.mark.parametrize("config", CONFIGS, ids=name_of)
def test_through_the_config_of_a_run_folder(config, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    assert RunConfig.load(tmp_path) == RunConfig.load(tmp_path / "config.json") == config


def to_toml(table, path=""):
    """Write a table; TOML has no null, so None is left out."""
    values, tables = "", ""
    for key, value in table.items():
        if isinstance(value, dict):
            name = f"{path}.{key}".strip(".")
            tables += f"[{name}]\n{to_toml(value, name)}"
        elif value is not None:
            values += f"{key} = {json.dumps(value)}\n"
    return values + tables


@pytest.mark.parametrize("config", CONFIGS, ids=name_of)
def test_through_a_recipe(config, tmp_path):
    plain = config.to_dict()
    (tmp_path / "recipe.toml").write_text(to_toml(plain))
    loaded = RunConfig.load(tmp_path / "recipe.toml")
    for field, default in ((("train", "patience"), 6), (("scheduler", "refresh_period"), 32)):
        if plain[field[0]].get(field[1], 0) is None:  # cannot be written: becomes its default
            plain[field[0]][field[1]] = default
    assert loaded == RunConfig.from_dict(plain)


def test_what_is_missing_is_default():
    assert RunConfig.from_dict({}) == RunConfig()
    config = RunConfig.from_dict({"scheduler": {"kind": "coloring", "tau": 0.1}, "train": {}})
    assert config == RunConfig(scheduler=Coloring(tau=0.1))
    assert RunConfig.from_dict({"encoder": {"num_layers": 1}}).encoder == SAGE(num_layers=1)


def test_the_method_is_its_name_or_its_kind():
    assert RunConfig(scheduler=Coloring()).method == "coloring"
    assert RunConfig(scheduler=Coloring(), name="ours").method == "ours"
    assert RunConfig(aggregator=UPGrad()).method == "joint+upgrad"
    methods = [RunConfig(aggregator=TorchJD(method=each)).method for each in ("mgda", "krum")]
    assert methods == ["joint+torchjd-mgda", "joint+torchjd-krum"]


# what is refused


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"datset": "x"}, ["unknown key `datset`", "`dataset`"]),
        ({"train": {"epoch": 3}}, ["unknown key `train.epoch`", "`epochs`"]),
        ({"scheduler": {"kind": "coloring", "tua": 1}}, ["`scheduler.tua`", "`tau`"]),
        (
            {"scheduler": {"tau": 0.1}},
            ["`scheduler.tau`", "belongs to scheduler.kind coloring", "means joint"],
        ),
        ({"scheduler": {"kind": "joint", "zzz": 1}}, ["Found kind joint", "Known keys: scale"]),
        ({"encoder": {"hops": 3}}, ["belongs to encoder.kind sign", "no `encoder.kind`"]),
        ({"head": {"kind": "linear", "rank": 3}}, ["head.kind adapters", "Found kind linear"]),
        (
            {"aggregator": {"alpha": -1.0}},
            ["`aggregator.alpha`", "fairgrad or gradnorm or gradops", "which means sum"],
        ),
        ({"aggregator": {"kind": "gradops", "c": 1}}, ["kind cagrad", "Found kind gradops"]),
        ({"aggregator": {"alhpa": 1}}, ["`alpha`", "means sum", "no further keys"]),
        ({"aggregator": "upgrad"}, ["table", 'aggregator = { kind = "upgrad" }']),
        ({"encoder": "gin"}, ['encoder = { kind = "gin" }']),
        ({"aggregator": 3}, ["table", "Found 3", 'kind = "..."']),
        ({"features": {"dims": 3}}, ["`features.dims`", "`dim`"]),
        ({"train": {"zzz": 1}}, ["`train.zzz`", "Known keys", "batch_size"]),
        ({"encoder": {"kind": "sage", "heads": 2}}, ["`encoder.heads`"]),
        ({"kind": "joint"}, ["unknown key `kind`"]),
        ({"scheduler": {"kind": "colouring"}}, ["'colouring'", "`coloring`", "static"]),
        ({"encoder": {"kind": "transformer"}}, ["encoder kind 'transformer'", "gatv2"]),
        ({"head": {"kind": 3}}, ["head kind 3", "linear, mlp"]),
        ({"head": {"kind": ["mlp"]}}, ["head kind ['mlp']"]),
        ({"head": {"kind": None}}, ["head kind None"]),
        ({"train": 3}, ["train", "table", "3"]),
        ({"scheduler": "joint"}, ["`scheduler`", "table", "'joint'"]),
        ({"features": ["own"]}, ["features", "table"]),
        ([], ["the top level", "table", "[]"]),
        ({"train": {"epochs": "3"}}, ["`train.epochs` is '3'", "integer"]),
        ({"train": {"epochs": 3.0}}, ["`train.epochs` is 3.0", "integer"]),
        ({"train": {"epochs": True}}, ["`train.epochs` is True"]),
        ({"train": {"lr": "fast"}}, ["`train.lr` is 'fast'", "number"]),
        ({"train": {"num_neighbors": [5, "x"]}}, ["`train.num_neighbors`"]),
        ({"train": {"num_neighbors": 5}}, ["`train.num_neighbors` is 5"]),
        ({"train": {"replace": 1}}, ["`train.replace` is 1", "boolean"]),
        ({"train": {"optimizer": "sgd"}}, ["`train.optimizer` is 'sgd'", "'adam' or 'adamw'"]),
        ({"features": {"use": "none"}}, ["`features.use` is 'none'"]),
        ({"seed": None}, ["`seed` is None"]),
        ({"name": 3}, ["`name` is 3", "string"]),
        ({"train": {"epochs": 0}}, ["train", "`epochs`", "at least 1"]),
        ({"scheduler": {"kind": "coloring", "tau": 3.0}}, ["scheduler", "[-1, 1]", "3"]),
        ({"scheduler": {"kind": "static"}}, ["scheduler", "`file`"]),
    ],
    ids=str,
)
def test_a_bad_configuration_names_file_and_key(value, said, tmp_path):
    forms = {"configuration": value, "config.json": json.dumps(value)}
    if isinstance(value, dict) and "null" not in forms["config.json"]:  # TOML has neither
        forms["recipe.toml"] = to_toml(value)
    for name, form in forms.items():
        if name != "configuration":
            (tmp_path / name).write_text(form)
        source = name if name == "configuration" else str(tmp_path / name)
        with pytest.raises(ConfigError) as caught:
            RunConfig.from_dict(form) if source == name else RunConfig.load(source)
        for part in (f"{source}: ", *said):
            assert part in str(caught.value)
        assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("broken.toml", "seed ="), ("broken.json", "{"), ("dated.toml", "seed = 2026-01-01"),
        ("binary.toml", b"\xff\xfe"), ("nan.toml", "[train]\nlr = nan"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_recipe(name, text, tmp_path):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=name):
        RunConfig.load(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.toml should be a recipe"):
        RunConfig.load(tmp_path / "nowhere.toml")
    with pytest.raises(ConfigError, match=r"config\.json"):
        RunConfig.load(tmp_path)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.sampled_from(["", "sage"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["kind", "tau", "x"]), inner, max_size=2)
    ),
    max_leaves=4,
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(CONFIGS), st.data(), VALUES)
def test_any_value_anywhere_is_taken_or_refused_by_name(config, data, value):
    """No other error, and what is taken means the same when written and read again."""
    plain = config.to_dict()
    table = plain
    section = data.draw(
        st.sampled_from([None, "scheduler", "encoder", "head", "features", "train"])
    )
    if section is not None:
        table = plain[section]
    key = data.draw(st.sampled_from([*table, "unknown"]))
    table[key] = value
    try:
        taken = RunConfig.from_dict(plain)
    except ConfigError as error:
        refusal = str(error)
    else:
        refusal = "configuration: "
        assert RunConfig.from_dict(taken.to_dict()) == taken
    assert refusal.startswith("configuration: ")


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"aggregator": "upgrad"}, r"aggregator=UPGrad\(\)\. Found 'upgrad'"),
        ({"aggregator": "mine"}, "should be a configuration, such as"),
        ({"aggregator": UPGrad}, r"aggregator=UPGrad\(\)\. Found <class"),
        ({"aggregator": UPGrad().build(8)}, r"aggregator=UPGrad\(\)\. Found UPGrad\(.*build\(8\)"),
        ({"aggregator": None}, "Found None"),
        ({"aggregator": Joint()}, "should be a configuration"),
        ({"scheduler": "joint"}, r"scheduler=Joint\(\)"),
        ({"scheduler": Joint().build(8)}, r"scheduler=Joint\(\)"),
        ({"encoder": SAGE}, r"encoder=SAGE\(\)"),
        ({"head": Linear().build(4, 3)}, "`head` should be a configuration"),
    ],
)
def test_parts_are_configurations(part, said):
    with pytest.raises(UsageError, match=said):
        RunConfig(**part)


def test_an_own_aggregator_has_a_kind():
    class Nameless(AggregatorConfig):
        def build(self, num_tasks, seed=0):
            raise NotImplementedError

    with pytest.raises(UsageError, match="Nameless has no `kind`"):
        RunConfig(aggregator=Nameless())


def test_an_own_aggregator_is_read_in_python_alone(tmp_path):
    class Own(UPGrad):
        kind = "own"

    (tmp_path / "config.json").write_text(json.dumps(RunConfig(aggregator=Own()).to_dict()))
    with pytest.raises(ConfigError, match=r"not part of the package.* train\(config, out, resume"):
        RunConfig.load(tmp_path)
    with pytest.raises(ConfigError) as caught:
        RunConfig.from_dict({"aggregator": {"kind": "own"}})
    assert "resume" not in str(caught.value)


@pytest.mark.parametrize("given", [{"grad_clip": 1.0}, {"group_moments": True}])
def test_steps_by_task_are_not_clipped_and_have_their_own_moments(given):
    name = next(iter(given)).replace("_", "-")
    for moments in ("auto", "exact"):
        with pytest.raises(UsageError, match=rf"--train\.{name}.*--aggregator\.moments layer"):
            RunConfig(aggregator=AdaTask(moments=moments), train=Train(**given))
    RunConfig(aggregator=AdaTask(moments="layer"), train=Train(**given))
    RunConfig(aggregator=UPGrad(), train=Train(**given))


@pytest.mark.parametrize("scheduler", [Single(), Separate(groups=((0,), (1,)))])
def test_models_of_some_tasks_have_no_adapters(scheduler):
    with pytest.raises(UsageError, match=r"Adapters .* --head\.kind"):
        RunConfig(scheduler=scheduler, head=Adapters(groups=((0,), (1,))))
