"""The profile of a dataset: self-contained, well formed, quiet in a browser."""

import importlib
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from gnn_mtl._core import optional
from gnn_mtl._core.errors import MissingExtraError, SealedLabelsError
from gnn_mtl.datasets import (
    LocalCopy,
    TaskGraph,
    catalog_entry,
    describe,
    load_dataset,
    planted,
    sample_overlap,
)
from gnn_mtl.reports import build_profile
from gnn_mtl.reports._profile_figures import LABELS_DRAWN, cluster_order, labels_to_draw

VOID = {"meta", "link", "br", "hr", "img"}
PARTS = ("verdict", "labels", "splits", "overlap", "graph", "origin")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


class Page(HTMLParser):
    """Collects tags, ids and words; fails on tags that do not match."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.words, self._open = [], [], [], []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.append((tag, values))
        self.ids += [values["id"]] if "id" in values else []
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def check(path):
    """Check what holds of every profile and return the page and its words."""
    text = path.read_text()
    page = Page(text)
    assert len(page.ids) == len(set(page.ids))
    without_data = re.sub(r"data:image/png;base64,[^\"]*", "", text)
    assert not re.search(r"https?:|//[a-z]|@import|<script|javascript:", without_data)
    links = [values["href"] for _, values in page.tags if "href" in values]
    links += [f"#{one}" for one in re.findall(r"url\(#([^)\"]+)\)", text)]
    assert all(link.startswith("data:") or link[1:] in page.ids for link in links)
    assert not re.search(r"#0[1-4]0[1-4]0[1-4]\b|#0500", text)
    assert set(PARTS) <= set(page.ids)
    return page, " ".join(" ".join(page.words).split())


@pytest.fixture(scope="module")
def debian(tmp_path_factory):
    entry = catalog_entry("debian-tags")
    out = tmp_path_factory.mktemp("profile") / "debian.html"
    copy = LocalCopy("embedded", out.parent / "debian-tags.npz", 298_765)
    return build_profile(
        load_dataset("debian-tags"), out, entry=entry, copies=[copy],
        command="gnn-mtl data show debian-tags --html debian.html",
    )  # fmt: skip


def test_a_whole_profile(debian):
    page, words = check(debian)
    plots = [values for tag, values in page.tags if tag == "svg"]
    assert len(plots) == 4
    assert all(values["aria-label"] for values in plots)
    for text in (
        "66 labels on 6,943 of 8,760 nodes", "The smallest has 103 positives", "2.5 times as alike",
        "All pairs of labels are trained on enough of the same nodes", "100.0 %",
        "arXiv 2604.07848", "interface::graphical", "1,817 nodes are unlabelled",
        "none stated", "Debian Project", "debtags.debian.org", "embedded, 0.3 MB",
        "gnn-mtl data show debian-tags --html debian.html", "60 labels of 66",
        load_dataset("debian-tags").fingerprint(),
    ):  # fmt: skip
        assert text in words, text


def test_the_numbers_of_the_split_table(debian):
    graph = load_dataset("debian-tags")
    text = debian.read_text()
    rows = re.findall(r"<tr><td>.*?</tr>", text[text.index('id="splits"') :], flags=re.DOTALL)[:3]
    for part, row in zip(("train", "valid", "test"), rows, strict=True):
        numbers = [int(found.replace(",", "")) for found in re.findall(r"<td>([\d,]+)</td>", row)]
        positives = graph.positives(part)
        assert f">{part}<" in row
        assert numbers == [
            len(graph.split_idx[part]), graph.observed_counts(part).sum(), positives.sum(),
            positives.min(), 0,
        ]  # fmt: skip


def test_red_flags_are_said_in_words(tmp_path):
    graph = planted(500, num_tasks=8, num_groups=2, split="task", num_features=0, seed=1)
    _, words = check(build_profile(graph, tmp_path / "p.html"))
    assert "100 % of the pairs of labels share fewer than 40 % of their training nodes" in words
    assert "without structural ones" in words
    assert "Not in the catalog" in words
    assert "Per (node, task)" in words


def test_a_miniature_is_named_as_such(tmp_path):
    graph = planted(100, num_tasks=4, num_groups=1)
    _, words = check(build_profile(graph, tmp_path / "p.html", entry=catalog_entry("ppi")))
    assert "This is not the published graph: 100 nodes instead of 3,890, 4 tasks" in words


@pytest.mark.filterwarnings("ignore::gnn_mtl._core.errors.LabelWarning")
@pytest.mark.parametrize("case", ["one task", "no edges", "nothing known", "copies", "many"])
def test_poor_data(case, tmp_path):
    rng = np.random.default_rng(0)
    y = (rng.random((60, 5)) < 0.4).astype(float)
    edges = rng.integers(0, 60, (2, 90))
    if case == "one task":
        y = y[:, :1]
    elif case == "no edges":
        edges = np.zeros((2, 0), dtype=int)
    elif case == "nothing known":
        y[:] = 0
    elif case == "copies":
        y[:, 4] = y[:, 3] = y[:, 0]
    elif case == "many":
        y = (rng.random((60, 450)) < 0.3).astype(float)
        y[:, :9] = 0
    graph = TaskGraph.from_arrays(edges, y)
    page, words = check(build_profile(graph, tmp_path / "p.html"))
    assert len([1 for tag, _ in page.tags if tag == "svg"]) == (3 if case == "one task" else 4)
    if case == "copies":
        assert "2 labels repeat others exactly" in words
        assert "task_3 = task_0" in words
    if case == "nothing known":
        assert "5 labels have one class only" in words
        assert "unknown: no edge joins two nodes with labels" in words
    if case == "many":
        assert f"{LABELS_DRAWN} labels of 450" in words


def test_hostile_names_stay_text(tmp_path):
    names = ["<script>alert(1)</script>", "$\\frac{", "a&b\"'", "two\nlines", "漢字", "]]>"]
    rng = np.random.default_rng(0)
    y = (rng.random((50, 6)) < 0.5).astype(float)
    y[:, 1] = y[:, 0]
    graph = TaskGraph.from_arrays(
        rng.integers(0, 50, (2, 80)), y, label_names=names, name="<b>name</b>"
    )
    page, words = check(build_profile(graph, tmp_path / "p.html", command="</style><script>"))
    assert "<script>alert(1)</script>" in words
    assert "<b>name</b>" in words
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "iframe", "object"})


def test_what_is_known_is_not_counted_again(tmp_path):
    graph = planted(120, num_tasks=5, num_groups=1)
    overlap = sample_overlap(graph)
    facts = describe(graph, overlap=overlap)
    made = re.compile(r"Made [\d: -]+ UTC")
    pages = [
        build_profile(graph, tmp_path / f"{len(given)}.html", **given).read_text()
        for given in ({}, {"facts": facts, "overlap": overlap})
    ]
    assert made.sub("", pages[0]) == made.sub("", pages[1])


def test_labels_drawn_are_the_largest_and_the_most_alike():
    rng = np.random.default_rng(0)
    y = (rng.random((400, 120)) < 0.02).astype(float)
    y[:, :40] = rng.random((400, 40)) < 0.4
    y[:, 118] = y[:, 119]
    overlap = sample_overlap(TaskGraph.from_arrays(rng.integers(0, 400, (2, 9)), y, split="random"))
    chosen = labels_to_draw(overlap)
    assert len(chosen) == len(set(chosen)) == LABELS_DRAWN
    assert {118, 119} <= set(chosen)
    assert len(set(chosen) & set(range(40))) >= LABELS_DRAWN // 2


def test_alike_labels_are_neighbours():
    blocks = np.kron(np.eye(3), np.ones((4, 4)))
    mixed = np.random.default_rng(0).permutation(12)
    order = cluster_order(blocks[np.ix_(mixed, mixed)])
    assert sorted(order) == list(range(12))
    block = mixed[order] // 4
    assert (np.diff(block) != 0).sum() == 2


def test_sealed_graphs_and_missing_matplotlib(tmp_path, monkeypatch):
    graph = planted(60, num_tasks=3, num_groups=1)
    with pytest.raises(SealedLabelsError):
        build_profile(graph.sealed(), tmp_path / "p.html")

    found = importlib.import_module

    def refuse(name, *package):
        if name.partition(".")[0] != "gnn_mtl":  # ours are imported when first asked for
            raise ImportError(name)
        return found(name, *package)

    monkeypatch.setattr(optional.importlib, "import_module", refuse)
    with pytest.raises(MissingExtraError, match=r"gnn-mtl\[plot\]"):
        build_profile(graph, tmp_path / "p.html")
    assert not (tmp_path / "p.html").exists()


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
@pytest.mark.parametrize(
    ("width", "height", "scheme"), [(1200, 3900, "light"), (500, 5600, "dark")]
)
def test_in_a_browser(width, height, scheme, debian, tmp_path):
    dom, console = browse(debian, "--dump-dom")
    assert console == []
    assert all(f'id="{part}"' in dom for part in PARTS)
    png = tmp_path / "page.png"
    dark = ["--blink-settings=preferredColorScheme=0"] if scheme == "dark" else []
    browse(debian, f"--screenshot={png}", f"--window-size={width},{height}", *dark)
    with Image.open(png) as image:
        assert image.size == (width, height)
        corner = image.convert("RGB").getpixel((3, 3))
        assert (sum(corner) < 200) == (scheme == "dark")
        step = height // 6
        stripes = [image.crop((0, top, width, top + step)) for top in range(0, 6 * step, step)]
        assert all(len(one.convert("RGB").getcolors(1 << 20)) > 50 for one in stripes[:5])
