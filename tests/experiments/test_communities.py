"""Communities as labels: README and records say the same, and the smoke variant runs."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from gnn_mtl.records import read_run
from gnn_mtl.runs import RunConfig, Sweep
from gnn_mtl.tasks import SubsetTable

FOLDER = Path(__file__).parents[2] / "experiments" / "communities"
SHARED = Path(__file__).parents[3] / "shared" / "data"
SCRIPTS = ("cells", "fidelity", "methods", "planted500", "table", "run")


@pytest.fixture(scope="module")
def records(scripts):
    return scripts["table"].read_records()


def test_the_readme_is_what_the_records_give(scripts, records):
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert scripts["table"].between_marks(text) == scripts["table"].tables(records)


def test_claims_are_what_the_records_give(records):
    """Every sentence of the README that compares two numbers stands in expected.json."""
    claims = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))["claims"]
    assert claims

    def value(side):
        """A number, or a path into a record; the mean over seeds where it leads to runs."""
        if not isinstance(side, list):
            return side
        found = records[side[0]]
        if side[1] == "runs":
            return np.mean([one[side[2]][side[3]] for one in found["runs"]])
        for key in side[1:]:
            if isinstance(key, dict):
                (found,) = [r for r in found if all(r[k] == v for k, v in key.items())]
            else:
                found = found[key]
        return found

    for claim in claims:
        left, right = value(claim["left"]), value(claim["right"])
        assert (left > right) == claim["left_is_larger"], claim["says"]


def test_a_record_says_where_it_comes_from(scripts, records):
    for name, record in records.items():
        for one in record.get("runs", [record]):
            assert len(one["commit"]) == 40, name
            assert isinstance(one["dirty"], bool)
            assert one["created"]
        seeds = [one["seed"] for one in record.get("runs", [])]
        assert seeds == sorted(set(seeds))
    for file in (FOLDER / "records").glob("*.json"):
        assert file.stat().st_size < 200_000


def test_subset_records_hold_the_subsets_of_the_design(scripts, records):
    for cell in scripts["cells"].CELLS:
        record = records.get(f"{cell.name}-subsets")
        if record is None:
            continue
        tasks = 100 if cell.top is None else cell.top
        wanted = {tuple(np.flatnonzero(row).tolist()) for row in cell.masks(tasks)}
        seeds = {row[1] for row in record["rows"]}
        assert {(tuple(row[0]), row[1]) for row in record["rows"]} == {
            (tasks, seed) for tasks in wanted for seed in seeds
        }
        for row in record["rows"]:
            for values in row[4:]:
                assert len(values) == len(row[0])


# the measures


def test_agreement_by_hand(scripts):
    """Against numpy and scipy on three columns, one of which is known once only."""
    rng = np.random.default_rng(0)
    true = rng.normal(size=(6, 3))
    true[:, 0] += 5
    guess = true + 0.3 * rng.normal(size=true.shape)
    true[2:, 2] = np.nan
    true[1, 2] = np.nan
    found = scripts["fidelity"].agreement(guess, true)
    a, b = guess[:, :2], true[:, :2]
    assert found["cells"] == 12
    assert found["distance"] == pytest.approx(
        np.sqrt(((a - b) ** 2).sum() / (b**2).sum()), abs=1e-5
    )
    wanted = spearmanr((a - a.mean(0)).ravel(), (b - b.mean(0)).ravel())[0]
    assert found["spearman"] == pytest.approx(wanted, abs=1e-4)


def test_the_constant_ranks_nothing(scripts):
    masks = np.ones((4, 2), dtype=bool)
    scores = np.array([[1.0, 2.0], [3.0, 4.0], [2.0, 2.0], [0.0, 1.0]])
    made = scripts["fidelity"].constant(SubsetTable(masks, scores, "trained"), masks)
    np.testing.assert_array_equal(made.scores[0], [1.5, 2.25])
    found = scripts["fidelity"].agreement(made.scores, scores)
    assert found["spearman"] is None
    assert found["distance"] > 0


def test_scores_from_an_affinity(scripts):
    affinity = np.array([[9.0, 1.0, 2.0], [3.0, 9.0, 4.0], [5.0, np.nan, 9.0]])
    masks = np.array([[True, True, False], [True, True, True]])
    made = scripts["fidelity"].from_affinity(affinity, masks)
    np.testing.assert_allclose(made[0], [3.0, 1.0, np.nan])  # giver in the row, without itself
    np.testing.assert_allclose(made[1], [4.0, 0.5, 3.0])


def test_numbers_and_missing_cells(scripts):
    table = scripts["table"]
    assert [table.number(v) for v in (0.1234, -0.05, 1.5, 10.25, -0.0001, None)] == [
        ".123", "-.050", "1.500", "10.250", ".000", "",
    ]  # fmt: skip
    text = table.tables({})
    assert text.count("not run") == 2 * len(table.METHODS) + 3


def test_the_recipe_of_the_paper_is_one():
    sweep = Sweep.load(FOLDER / "paper.toml")
    assert [config.method for config in sweep.methods] == ["joint", "single"]
    first = sweep.methods[0]
    assert (first.encoder.hops, first.encoder.hidden_channels) == (3, 256)
    evaluations = first.train.epochs / first.train.eval_every
    assert (first.train.epochs, first.train.patience) == (100, evaluations)  # never stops early


# the data


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"real graphs are not at {SHARED}")
def test_the_split_of_the_paper(scripts):
    """v3: one training positive of a community of 50 to 99 members, two of larger ones."""
    cell = scripts["cells"].CELLS[0]
    graph = cell.load(SHARED)
    members = sum(graph.positives(split) for split in ("train", "valid", "test"))
    trained = graph.positives("train")
    np.testing.assert_array_equal(trained, np.where(members > 100, 2, np.maximum(members // 50, 1)))
    np.testing.assert_array_equal(graph.positives("valid"), members // 5)
    cells = sum(graph.observed_counts(split) for split in ("train", "valid", "test"))
    assert (cells == graph.num_nodes).all()


def test_without_the_graphs_it_says_so(scripts, tmp_path, capsys):
    arguments = ["--data", str(tmp_path / "none"), "--records", str(tmp_path)]
    assert scripts["run"].main(arguments) == 0
    assert "skipped" in capsys.readouterr().out


def test_smoke(scripts, tmp_path, capsys):
    """Every stage on generated graphs; what is there is neither trained nor changed again."""
    run, table = scripts["run"], scripts["table"]
    out, folder = tmp_path / "runs", tmp_path / "records"
    arguments = ["--smoke", "--seeds", "0", "--out", str(out), "--records", str(folder)]
    assert run.main(arguments) == 0
    made = {file.stem for file in folder.iterdir()}
    methods = set(run.METHODS[: run.SHORT])
    assert made == {f"smoke-{m}" for m in methods} | {
        "smoke-subsets", "smoke-fidelity", "smoke-planted500",
    }  # fmt: skip
    records = table.read_records(folder)
    for method in methods:
        kept = records[f"smoke-{method}"]["runs"][0]["test"]
        scored = read_run(out / "smoke" / f"{method}-seed0").summary
        assert kept["ap"] == pytest.approx(scored.test["ap"], abs=1e-5)
    sizes = {m: records[f"smoke-{m}"]["runs"][0]["grouping"]["sizes"] for m in
             ("gradtag_sdp", "random")}  # fmt: skip
    assert sizes["random"] == sizes["gradtag_sdp"]
    assert RunConfig.load(out / "smoke" / "random-seed0").scheduler.kind == "separate"
    renamed = {name.replace("smoke", "amazon100-v3"): r for name, r in records.items()}
    renamed["planted500"] = records["smoke-planted500"]
    assert "adjusted Rand" in table.tables(renamed)
    predictors = {row["predictor"] for row in records["smoke-fidelity"]["rows"]}
    assert set(table.PREDICTORS) - {"gradtag, long base"} <= predictors

    before = {file: file.stat().st_mtime_ns for file in out.rglob("summary.json")}
    lines = (out / "smoke" / "subsets.jsonl").read_text()
    assert run.main([*arguments, "--part", "subsets", "methods"]) == 0
    assert before == {file: file.stat().st_mtime_ns for file in out.rglob("summary.json")}
    assert lines == (out / "smoke" / "subsets.jsonl").read_text()
