"""The page: self-contained, well formed, every link alive, drawn without complaint in a browser."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from gnn_mtl._core import optional
from gnn_mtl._core.errors import MissingExtraError, UsageError
from gnn_mtl.records import Refresh
from gnn_mtl.reports import build_report
from gnn_mtl.reports._groups import steady_groups

VOID = {"meta", "link", "br", "img", "input", "hr"}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


class Page(HTMLParser):
    """Collects ids, links and text; fails on tags that do not match."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.tags, self.words, self._open = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.append((tag, values))
        if tag not in VOID:
            self._open.append(tag)
        if "id" in values:
            self.ids.append(values["id"])
        self.links += [values[key] for key in ("href", "src", "xlink:href") if key in values]

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self._open
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def check(path):
    """Check what holds of every report and return it parsed."""
    text = path.read_text()
    page = Page(text)
    assert len(page.ids) == len(set(page.ids))
    without_data = re.sub(r"data:image/png;base64,[^\"]*", "", text)
    assert not re.search(r"https?:|//[a-z]|@import|<script|javascript:", without_data)
    assert not {tag for tag, _ in page.tags} & {"script", "iframe", "object", "embed", "base"}
    ids = set(page.ids)
    for link in page.links + [f"#{one}" for one in re.findall(r"url\(#([^)\"]+)\)", text)]:
        if link.startswith("#"):
            assert link[1:] in ids, link
        elif not link.startswith("data:"):
            assert (path.parent / unquote(link)).exists(), link
    placeholders = r"#0[1-4]0[1-4]0[1-4]\b|#0500"
    assert not re.search(placeholders, text)
    return page


@pytest.fixture(scope="module")
def report(study):
    return build_report([study], study.parent / "report.html")


def test_a_whole_report(report, study):
    page = check(report)
    for part in ("verdict", "scores", "comparison", "curves", "groups", "labels", "cost", "runs"):
        assert f"s1-{part}" in page.ids
    plots = [values for tag, values in page.tags if tag == "svg" and values["class"] == "plot"]
    assert len(plots) == 6
    assert all(values["aria-label"] for values in plots)
    text = " ".join(page.words)
    for words in ("coloring_multi", "uitoolkit::gtk", "The same 11 labels", "Group 1", "oracle",
                  "gnn-mtl train --dataset debian-tags", "3f9c2a7be1"):  # fmt: skip
        assert words in text
    runs = {link.strip("/") for link in page.links if link.startswith("runs/")}
    assert {f"runs/{one.parent.name}/{one.name}" for one in study.glob("*/*")} <= runs


def test_every_score_cell_links_to_its_runs(report):
    """Each number of the score table has one dot per seed, and the dot's title is the number."""
    text = report.read_text()
    table = text[text.index('id="s1-scores"') : text.index('id="s1-comparison"')]
    rows = re.findall(r"<tr><td>.*?</tr>", table, flags=re.DOTALL)
    first = next(row for row in rows if ">joint<" in row)
    cells = re.findall(r"<td[^>]*>(.*?)</td>", first, flags=re.DOTALL)[1:]
    for cell in cells:
        links = re.findall(r'href="runs/joint/seed-(\d)/" title="seed \d: ([^"]+)"', cell)
        assert [seed for seed, _ in links] == ["0", "1", "2"]
    values = [float(value) for _, value in re.findall(r'title="seed (\d): ([\d.]+)"', cells[0])]
    mean = float(re.match(r"[\d.]+", cells[0])[0])
    assert np.mean(values) == pytest.approx(mean, abs=0.006)


def test_links_are_relative_to_the_page(study, tmp_path):
    spaced = tmp_path / "a b#c" / "runs"
    shutil.copytree(study / "joint", spaced / "joint")
    check(build_report([spaced], tmp_path / "deep" / "er" / "page.html"))


def test_hostile_names_stay_text(tmp_path, write_run):
    names = ["<script>alert(1)</script>", "$\\frac{", "a&b\"'", "two\nlines", "漢字", "_hidden",
             "]]>", "x" * 300]  # fmt: skip
    for seed, (name, kind) in enumerate([("<b>joint</b>", "joint"), ("a|b & <i>", "coloring")]):
        write_run(tmp_path / f"r{seed}", name=name, kind=kind, seed=0, num_tasks=8,
                  label_names=names, tau=0.05 if seed else None,
                  config_changes={"note": "</style><script>"})  # fmt: skip
    page = check(build_report([tmp_path], tmp_path / "r.html"))
    assert "<script>alert(1)</script>" in " ".join(page.words)
    assert not any(tag == "i" and "class" not in values for tag, values in page.tags)


@pytest.mark.parametrize(
    "runs",
    [
        [{"name": "joint", "kind": "joint"}],
        [{"name": "mine", "kind": "coloring", "tau": 0.1}],
        [{"name": "joint", "kind": "joint"},
         {"name": "mine", "kind": "coloring", "tau": 0.1, "affinities": False}],
        [{"name": "joint", "kind": "joint", "curves": False},
         {"name": "single", "kind": "single", "curves": False, "tasks": [0, 5]}],
        [{"name": "joint", "kind": "joint", "num_tasks": 3},
         {"name": "mine", "kind": "coloring", "tau": 0.9, "num_tasks": 3}],
        [{"name": "joint", "kind": "joint", "summary_changes": {"per_label": {}, "cost": {}}},
         {"name": "mine", "kind": "static", "groups": [[0], [*range(1, 66)]],
          "summary_changes": {"valid": {}, "best_step": None}}],
        [{"name": "joint", "kind": "joint", "done": True},
         {"name": "mine", "kind": "coloring", "tau": 0.1, "done": False}],
    ],
    ids=["joint-only", "no-joint", "no-affinity", "sample", "tiny-empty-graph", "bare", "open"],
)  # fmt: skip
def test_missing_pieces(tmp_path, write_run, runs):
    for number, options in enumerate(runs):
        write_run(tmp_path / f"run{number}", seed=0, **options)
    page = check(build_report([tmp_path], tmp_path / "r.html"))
    assert "s1-scores" in page.ids
    assert not any("±" in words for words in page.words if "mean" not in words)


def test_two_graphs_get_a_part_each(tmp_path, write_run):
    for seed, dataset in enumerate(["one", "two"]):
        write_run(tmp_path / dataset, name="joint", kind="joint", seed=seed, dataset=dataset)
    page = check(build_report([tmp_path], tmp_path / "r.html"))
    assert {"s1-scores", "s2-scores", "s1c-figure_1", "s2c-figure_1"} <= set(page.ids)


def test_many_labels(tmp_path, write_run):
    names = [f"label {number}" for number in range(180)]
    for name, kind, tau in (("joint", "joint", None), ("mine", "coloring", 0.05)):
        write_run(tmp_path / name, name=name, kind=kind, seed=0, num_tasks=180,
                  label_names=names, tau=tau)  # fmt: skip
    out = build_report([tmp_path], tmp_path / "r.html")
    check(out)
    assert out.stat().st_size < 3_000_000


def test_building_twice_gives_the_same_page(tmp_path, write_run):
    write_run(tmp_path / "a", name="joint", kind="joint", seed=0, num_tasks=9)
    write_run(tmp_path / "b", name="mine", kind="coloring", tau=0.1, seed=0, num_tasks=9)
    made = re.compile(r"Made [\d: -]+ UTC")
    pages = [build_report([tmp_path], tmp_path / f"{name}.html").read_text() for name in "xy"]
    assert made.sub("", pages[0]) == made.sub("", pages[1])


def test_without_matplotlib(study, tmp_path, monkeypatch):
    def refuse(name):
        raise ImportError(name)

    monkeypatch.setattr(optional.importlib, "import_module", refuse)
    with pytest.raises(MissingExtraError, match=r"gnn-mtl\[plot\]"):
        build_report([study], tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_a_single_path_is_not_a_list(study):
    with pytest.raises(UsageError, match="list of folders"):
        build_report(study, study / "r.html")


def test_groups_keep_their_number_from_refresh_to_refresh():
    """Renaming the groups of a refresh changes nothing; a new group gets a new number."""
    steps = [((0, 1, 2), (3, 4, 5)), ((3, 4, 5), (0, 1, 2)), ((5,), (3, 4), (0, 1, 2))]
    refreshes = [Refresh(step, groups) for step, groups in enumerate(steps)]
    steady = steady_groups(refreshes, 6)
    assert steady.tolist() == [[0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 2]]


def browse(path, *options):
    """Run headless Chromium; returns stdout and the lines its console printed."""
    ended = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
         "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
         f"--user-data-dir={path.parent / 'profile'}", *options, path.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return ended.stdout, [line for line in ended.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: the page was not opened")
def test_in_a_browser(report, tmp_path):
    """The page forbids all network to itself, so anything it asked for would be on the console."""
    dom, console = browse(report, "--dump-dom")
    assert console == []
    for part in ("verdict", "scores", "comparison", "curves", "groups", "labels", "cost", "runs"):
        assert f'id="s1-{part}"' in dom
    assert dom.count('class="plot"') == 6
    png = tmp_path / "page.png"
    browse(report, f"--screenshot={png}", "--window-size=1280,7400")
    with Image.open(png) as image:
        assert image.size == (1280, 7400)
        stripes = [image.crop((0, top, 1280, top + 925)) for top in range(0, 7400, 925)]
        assert all(len(stripe.convert("RGB").getcolors(1 << 20)) > 50 for stripe in stripes)
    bad = tmp_path / "bad.html"
    bad.write_text(report.read_text().replace("<main>", '<main><img src="http://x.invalid/a.png">'))
    assert browse(bad, "--dump-dom")[1] != []
