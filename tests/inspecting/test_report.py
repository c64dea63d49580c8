"""A run's page: its numbers are the records', what is hostile shows as text, and a browser can use it from disk."""

import base64
import hashlib
import json
import re
import shutil
from collections import Counter
from html.parser import HTMLParser
from math import comb
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from readable import CONTRASTS
from story_run import config, finished  # noqa: F401  # a run of two iterations

from puzzles.archive import trends
from puzzles.archive.catalogue import refused_proposals
from puzzles.archive.store import Archive, Provenance
from puzzles.puzzle import Candidate, InputError, Judgement, Puzzle, Verdict, VerifiedPair
from selfplay.commands.main import main
from selfplay.experiments import chart
from selfplay.inspecting import panels
from selfplay.inspecting import report as report_module
from selfplay.inspecting.report import LISTS, report
from selfplay.run.rundir import RunDir
from selfplay.scoring.compare import difference
from selfplay.scoring.evaluate import counts_of, read_chunks
from selfplay.settings import load
from selfplay.text import fraction, interval, signed

ATTACK = (
    "</script></pre><script>window.attacked = 1</script><img src=x onerror='window.attacked=2'><a href=javascript:x>"
)


@pytest.fixture
def rundir(finished, tmp_path):
    shutil.copytree(finished.path, tmp_path / "a run")
    return RunDir(tmp_path / "a run")


@pytest.fixture(scope="module")
def page(finished):
    return report(finished)


class Page(HTMLParser):
    """Tags with their attributes, texts, and the cells of tables by the figure that they are in."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.texts, self.figures = [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "figure":
            self.figures.append([])

    def handle_data(self, data):
        self.texts.append(data)
        if self.figures and self.tags[-1][0] in ("td", "th", "b") and data.strip():
            self.figures[-1].append(data)

    def with_tag(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]


def add_pair(archive, identifier, source, solution="def g():\n    return 1", name="", description="", answer="1"):
    puzzle = Puzzle(source, "int", "def g():", identifier, identifier, frozenset(), description=description)
    held = VerifiedPair(puzzle, Candidate(solution, identifier), Judgement(Verdict.ACCEPTED, "", answer, 0.1, 0.1))
    archive.add(held, Provenance("model", 2, name=name, original=source), {"tier": "A"})


# ---- what it says ----


def test_scores_and_funnel_are_the_records(finished, page):
    figures = {cells[0]: cells[1:] for cells in Page(page).figures}
    records = finished.read_records()
    for scored, name in (("dev", "dev"), ("heldout", "held-out")):
        for k in ("pass@1", "pass@4"):
            rows = [[str(record["iteration"]), interval(record[scored][k])] for record in records]
            assert figures[f"{name} {k}"][2:] == [cell for row in rows for cell in row]
    head = ("iteration", "proposed", "well_formed", "admitted", "solved", "training_solved", "varied", "new_pairs",
            "trained_pairs", "held_out_refused", "contaminated")  # fmt: skip
    expected = [name.replace("_", " ") for name in head[:-1]] + ["contaminated so far"]
    expected += [str(record[name]) for record in records[1:] for name in head]
    assert figures["from proposed to solved"] == expected


def test_every_drawing_is_an_image_of_its_own_with_its_numbers_beside_it(page):
    images = Page(page).with_tag("img")
    assert len(images) == len(Page(page).figures) > 10
    for image in images:
        kind, _, content = image["src"].partition(",")
        assert kind == "data:image/svg+xml;base64"
        assert ElementTree.fromstring(base64.b64decode(content)).tag.endswith("svg")


def test_the_lists_are_what_they_are_called(finished, page):
    shown = Page(page).with_tag("details")
    lists = {
        name: [own["id"].removeprefix("pair-") for own in sorted(
            (card for card in shown if f"data-{name}" in card), key=lambda card: int(card[f"data-{name}"])
        )]
        for name in LISTS
    }  # fmt: skip
    with Archive(finished.archive) as archive:
        ids = archive.puzzle_ids()
        solutions, tried = archive.query("SELECT * FROM solutions"), archive.query("SELECT * FROM candidates")
        number = {identifier: sum(row["puzzle"] == identifier for row in solutions) for identifier in ids}
        verdicts = {i: [row["verdict"] for row in tried if row["puzzle"] == i] for i in ids}
        rate = {i: own.count("accepted") / len(own) for i, own in verdicts.items() if own}
        assert lists["used"] == trends.most_used(archive, 10**6)
        assert lists["newest"] == [i for i in reversed(archive.puzzle_ids("p.origin = 'model'")) if number[i]]
    newest_first = [i for i in reversed(ids) if number[i]]
    assert lists["varied"] == sorted(newest_first, key=lambda i: -number[i])
    assert lists["hardest"] == sorted((i for i in newest_first if rate.get(i)), key=lambda i: rate[i])


def test_a_puzzle_shows_its_parents_and_what_came_after_it_as_links(finished, page):
    with Archive(finished.archive) as archive:
        parents = {row["id"]: json.loads(row["parents"]) for row in archive.query("SELECT id, parents FROM puzzles")}
        children = trends.children(archive, parents)
    cards = re.split(r'<details class="card" id="pair-', page)[1:]
    assert len(cards) > 10
    for card in cards:
        identifier, links = card[:16], re.findall(r'href="#pair-(\w+)"', card)
        assert links == [identifier, *parents[identifier], *children.get(identifier, [])[:12]]


def test_parents_of_what_is_listed_are_shown_too_and_theirs(finished):
    with Archive(finished.archive) as archive:
        parents = {row["id"]: json.loads(row["parents"]) for row in archive.query("SELECT id, parents FROM puzzles")}
        one = next(identifier for identifier, own in parents.items() if any(parents[parent] for parent in own))
        expected, waiting = [one], [one]
        while waiting:
            waiting = list(dict.fromkeys(p for i in waiting for p in parents[i] if p not in expected))
            expected += waiting
        shown = report_module._with_ancestors(archive, [one])
    assert shown[0] == one
    assert set(shown) == set(expected)
    assert len(shown) == len(expected)


def test_settings_state_and_headline_stand_on_it(finished, page):
    texts = "".join(Page(page).texts)
    records = finished.read_records()
    assert finished.config.read_text() in texts
    assert "finished, iteration 2 of 2" in texts
    assert f"{records[-1]['pairs']:,}" in texts
    assert "0 puzzles in the archive" in texts


def test_a_run_that_has_scored_nothing_yet_has_a_page(rundir):
    rundir.records.unlink()
    html = report(rundir)
    assert "stopped, iteration 0 of 2" in html
    assert "dev pass@1" not in html


def test_an_empty_archive_has_a_page(rundir):
    rundir.records.unlink()
    rundir.archive.unlink()
    Archive(rundir.archive, create=True).close()
    html = report(rundir)
    assert "No iteration has ended yet." in html
    assert 'id="pairs"' not in html


@pytest.mark.slow
def test_arms_of_the_same_seed_stand_beside_an_arm_and_beside_no_other_run(rundir):
    others = {name: RunDir(shutil.copytree(rundir.path, rundir.path.parent / name)) for name in ("b-4", "c-9", "own")}
    others["c-9"].config.write_text(rundir.config.read_text().replace("seed = 4", "seed = 9"))
    for place in (rundir, others["b-4"], others["c-9"]):
        (place.path / "outcome.json").write_text("{}")
    figures = {cells[0]: cells[1:] for cells in Page(report(rundir)).figures}
    assert figures["dev pass@1"][:3] == ["iteration", "a run", "b-4"]
    assert {cells[0]: cells[1:] for cells in Page(report(others["own"])).figures}["dev pass@1"][:2] == [
        "iteration",
        "own",
    ]


def test_the_result_stands_on_top_in_a_sentence_with_its_interval_and_test(finished, page):
    records = finished.read_records()
    first, last = (
        counts_of(read_chunks(finished.samples(iteration, "heldout"))) for iteration in (0, records[-1]["iteration"])
    )
    rates = [np.array([passed(*own[puzzle], 1) for puzzle in first]) for own in (first, last)]
    one = difference(1, *rates)
    sentence = re.search(r'<p class="sentence">([^<]*)</p>', page)[1]
    after, before = (fraction(record["heldout"]["pass@1"][0]) for record in (records[-1], records[0]))
    assert f"After 2 iterations {load(finished.config).model.path} solves {after} of the held-out puzzles" in sentence
    assert f"at the first try (pass@1); it began with {before}." in sentence
    assert sentence.endswith(f"{signed(one.difference)}, p = {one.p:.2g}.")
    assert ("no significant change" in sentence) == (one.p >= 0.05)


def passed(n, c, k):
    """pass@k by its definition: 1 - C(n - c, k) / C(n, k)."""
    return 1 - comb(n - c, k) / comb(n, k)


def test_pass_at_k_over_k_is_that_of_the_counts_before_and_after(finished, page):
    figures = {cells[0]: cells[1:] for cells in Page(page).figures}
    for scored, name in (("dev", "dev"), ("heldout", "held-out")):
        cells = figures[f"{name} pass@k over k"]
        assert cells[:3] == ["k", "iteration 0", "iteration 2"]
        rows = {int(cells[place]): cells[place + 1 : place + 3] for place in range(3, len(cells), 3)}
        counts = [counts_of(read_chunks(finished.samples(iteration, scored))) for iteration in (0, 2)]
        assert list(rows) == [1, 2, 4]
        for k, found in rows.items():
            assert found == [fraction(np.mean([passed(n, c, k) for n, c in own.values()])) for own in counts]


def test_several_runs_stand_in_the_same_charts_under_their_own_names(rundir, capsys):
    other = RunDir(shutil.copytree(rundir.path, rundir.path.parent / "b"))
    same = RunDir(shutil.copytree(rundir.path, rundir.path.parent / "else" / "b"))
    figures = {cells[0]: cells[1:] for cells in Page(report(rundir, [other])).figures}
    for title in ("dev pass@1", "pairs in the archive"):
        assert figures[title][:3] == ["iteration", "a run", "b"]
    assert figures["dev pass@k over k"][:4] == ["k", "a run, 0", "a run, 2", "b, 2"]
    assert "else/b" in report(rundir, [other, same])
    assert main(["report", str(rundir.path), str(other.path)]) == 0
    assert capsys.readouterr().out.startswith(f"{rundir.path}/report-b.html: ")
    assert not rundir.report.exists()


def test_losses_of_several_runs_stand_in_one_chart():
    def run(*losses):
        none = [{"iteration": 0, "training": {}, "pairs": 1}]
        return none + [{"iteration": i, "training": {"last_loss": x}, "pairs": i} for i, x in enumerate(losses, 1)]

    loss, pairs = panels.training({"one": run(3.0, 2.5), "other": run(1.25)})
    assert (loss.head, pairs.head) == (["iteration", "one", "other"],) * 2
    assert loss.rows == [["1", "3.000", "1.250"], ["2", "2.500", ""]]
    assert pairs.rows == [["0", "1", "1"], ["1", "1", "1"], ["2", "2", ""]]


def test_what_was_refused_is_listed_with_its_text_and_reason(finished, page):
    with Archive(finished.archive) as archive:
        rows = refused_proposals(archive, None, 60, 0, "propose")
        texts = {(row["outcome"], archive.chunk(row["chunk"]).completions[row["position"]].strip()) for row in rows}
    shown_texts = "".join(Page(page).texts)
    assert len(texts) > 3
    for outcome, text in texts:
        assert outcome in shown_texts
        assert text in shown_texts


def test_imported_texts_that_were_refused_are_listed(rundir):
    with Archive(rundir.archive) as archive:
        archive.add_refusal(ATTACK, "puzzle", "syntax", ATTACK, f"def f(x: {ATTACK}")
    parsed = Page(report(rundir))
    assert "1 imported texts" in "".join(parsed.texts)
    assert f"def f(x: {ATTACK}" in "".join(parsed.texts)
    assert len(parsed.with_tag("script")) == 1


def test_a_chart_of_nothing_is_not_drawn():
    def panel(*rows):
        return panels.Panel("", "", "", ["iteration", "a", "b"], rows)

    assert panel(["1", "0", ""], ["2", "0.0", ".000"]).is_empty
    assert panel().is_empty
    assert not panel(["1", "0", ""], ["2", "0", ".001"]).is_empty


def test_outcomes_verdicts_and_types_have_the_same_colours_whatever_else_there_is():
    def colours(*names):
        panel = panels._shares("", "", {1: Counter({name: 9 - place for place, name in enumerate(names)})},
                               panels.OUTCOME_COLOURS)  # fmt: skip
        return {name for name, colour in panels.OUTCOME_COLOURS.items() if colour.lower() in panel.svg.lower()}

    assert colours("trivial", "admitted") == {"trivial", "admitted"}
    assert colours("admitted", "held_out", "trivial") == {"admitted", "held_out", "trivial"}
    for own in (panels.OUTCOME_COLOURS, panels.VERDICT_COLOURS, panels.TYPE_COLOURS):
        assert len({*own.values(), chart.REST}) == len(own) + 1


# ---- what it must not do ----


def test_hostile_text_is_text_wherever_it_stands(rundir):
    attack = ATTACK + "\u2028$x^2$"
    with Archive(rundir.archive) as archive:
        add_pair(archive, "0" * 16, f"def f(x: int):\n    return {attack!r} == x", attack, attack, attack, attack)
        archive.connection.execute("UPDATE puzzles SET skills = ?, answer_type = ?", (json.dumps([attack]), attack))
        archive.connection.execute("UPDATE candidates SET verdict = ? WHERE verdict = 'wrong_answer'", (attack,))
        archive.connection.execute("UPDATE proposals SET outcome = ? WHERE outcome = 'admitted'", (attack,))
    parsed = Page(report(rundir))
    assert len(parsed.with_tag("script")) == 1
    assert all(image["src"].startswith("data:image/svg+xml;base64,") for image in parsed.with_tag("img"))
    assert all(link["href"].startswith("#") for link in parsed.with_tag("a"))
    assert not any(name.startswith("on") for _, attributes in parsed.tags for name in attributes)
    assert "".join(parsed.texts).count("window.attacked = 1") > 6


def test_the_page_allows_its_own_script_and_style_only_and_nothing_from_elsewhere(page):
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', page)
    for tag, directive in (("style", "style-src"), ("script", "script-src")):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none'; img-src data:;")
    parsed = Page(page)
    assert not [own for tag, own in parsed.tags if tag in ("link", "iframe", "object", "base") or "style" in own]


@pytest.mark.slow
def test_a_page_of_long_texts_stays_below_five_megabytes_and_says_what_was_cut(rundir):
    with Archive(rundir.archive) as archive:
        for number in range(80):
            text = f"    {number} + '{'<&>' * 20_000}'\n"
            add_pair(archive, f"{number:016x}", f"def f(x: int):\n{text}", f"def g():\n{text}")
    html = report(rundir)
    assert len(html.encode()) < 5_000_000
    assert "characters more" in html


def test_a_folder_without_a_run_is_one_clear_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"nothing: expected a run's folder with config\.toml and archive\.sqlite"):
        report(RunDir(tmp_path / "nothing"))
    assert main(["report", "nothing"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.slow
def test_a_place_that_cannot_be_written_is_one_clear_line(rundir, capsys):
    assert main(["report", str(rundir.path), "--out", str(rundir.path)]) == 2
    assert "name another place with --out" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["archive.sqlite", "config.toml", "records.jsonl"])
def test_it_is_never_written_over_what_a_run_needs(rundir, capsys, name):
    before = (rundir.path / name).read_bytes()
    assert main(["report", str(rundir.path), "--out", str(rundir.path / name)]) == 2
    assert "name another place" in capsys.readouterr().err
    assert (rundir.path / name).read_bytes() == before


@pytest.mark.slow
def test_a_run_of_many_iterations_shows_some_of_them_from_the_first_to_the_last(rundir):
    first, *_, last = rundir.read_records()
    lines = [json.dumps({**last, "iteration": number}) + "\n" for number in range(1, 1001)]
    rundir.records.write_text(json.dumps(first) + "\n" + "".join(lines))
    cells = next(cells for cells in Page(report(rundir)).figures if cells[0] == "dev pass@1")
    shown = [int(cell) for cell in cells[3::2]]
    assert (shown[0], shown[-1], len(shown)) == (0, 1000, panels.MOST_ITERATIONS)


@pytest.mark.slow
def test_a_puzzle_in_quarantine_says_so(rundir):
    with Archive(rundir.archive) as archive:
        (one, *_) = trends.most_used(archive, 1)
        sql = "INSERT INTO contamination SELECT ?, 'exact', 'x', '', value, 0 FROM marks WHERE name = 'guard'"
        archive.connection.execute(sql, (one,))
    cards = re.split(r'<details class="card" id="pair-', report(rundir))[1:]
    assert [card[:16] for card in cards if "<span>in quarantine</span>" in card] == [one]


@pytest.mark.slow
def test_a_card_that_is_too_large_leaves_the_others_there(rundir, monkeypatch):
    full = report(rundir).count('<details class="card"')
    monkeypatch.setattr(report_module, "CHARACTERS", 10**7)
    with Archive(rundir.archive) as archive:
        (one, *_) = trends.most_used(archive, 1)
        archive.connection.execute("UPDATE puzzles SET source = ? WHERE id = ?", ("x" * 4_000_000, one))
    assert report(rundir).count('<details class="card"') == full - 1


def test_the_command_writes_it_into_the_run_or_where_it_is_told(rundir, tmp_path, capsys):
    assert main(["report", str(rundir.path)]) == 0
    assert main(["report", str(rundir.path), "--out", str(tmp_path / "new" / "page.html")]) == 0
    assert capsys.readouterr().out.startswith(f"{rundir.path}/report.html: ")
    assert rundir.report.read_text().startswith("<!DOCTYPE html>")
    assert (tmp_path / "new" / "page.html").exists()


# ---- in a browser ----


@pytest.fixture(scope="module")
def attacked(finished, tmp_path_factory):
    """The page of a run whose archive has a hostile pair; not to be written into."""
    rundir = RunDir(shutil.copytree(finished.path, tmp_path_factory.mktemp("attacked") / "a run"))
    with Archive(rundir.archive) as archive:
        add_pair(archive, "f" * 16, f"def f(x: int):\n    return x == 1 and {ATTACK!r}", ATTACK, ATTACK, ATTACK, ATTACK)
    rundir.report.write_text(report(rundir))
    return rundir.report


@pytest.fixture
def hostile(attacked, tmp_path):
    """A copy of that page, which a test may change."""
    return Path(shutil.copy(attacked, tmp_path / "report.html"))


@pytest.fixture
def tab(browser, hostile):
    """The page at a desk's width, and all that it asked for and complained of."""
    with browser.new_page(viewport={"width": 1280, "height": 900}) as tab:
        tab.asked, tab.said = [], []
        tab.on("request", lambda request: tab.asked.append(request.url))
        tab.on("console", lambda message: tab.said.append(message.text))
        tab.on("pageerror", lambda error: tab.said.append(str(error)))
        tab.goto(hostile.as_uri())
        yield tab


def shown(tab):
    return tab.locator(".card:visible").count()


def test_it_opens_from_disk_draws_its_plots_and_asks_for_nothing_else(tab, hostile):
    widths = tab.eval_on_selector_all("img", "images => images.map(image => image.naturalWidth)")
    assert len(widths) > 10
    assert all(widths)
    assert [url for url in tab.asked if not url.startswith("data:")] == [hostile.as_uri()]
    assert tab.said == []


def test_no_stored_script_runs_and_all_of_it_shows_as_text(tab):
    tab.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
    assert tab.evaluate("window.attacked") is None
    assert "window.attacked = 1" in tab.inner_text(f"#pair-{'f' * 16}")
    assert tab.locator("script").count() == 1


def test_even_a_script_that_got_into_the_page_would_not_run(browser, hostile):
    """The last line of defence: what the page's own policy does not name."""
    hostile.write_text(hostile.read_text().replace("<main>", f"<main>{ATTACK}"))
    with browser.new_page() as tab:
        tab.goto(hostile.as_uri())
        assert tab.locator("script").count() == 2
        assert tab.evaluate("window.attacked") is None


def test_words_filter_the_puzzles_and_a_list_orders_them(tab):
    everything = shown(tab)
    tab.fill("input[name=words]", "window.attacked = 1")
    assert shown(tab) == 1
    assert tab.inner_text("output") == "1 puzzle"
    tab.fill("input[name=words]", "no such word")
    assert shown(tab) == 0
    tab.fill("input[name=words]", "")
    tab.select_option("select", "hardest")
    assert 0 < shown(tab) < everything
    places = tab.eval_on_selector_all(".card:not([hidden])", "cards => cards.map(card => +card.dataset.hardest)")
    assert places == sorted(places)


def test_a_deep_link_opens_its_puzzle_though_a_filter_hides_it(tab, hostile):
    one = f"pair-{'f' * 16}"
    tab.goto(f"{hostile.as_uri()}#{one}")
    tab.reload()
    assert tab.evaluate(f"document.getElementById('{one}').open")
    other = tab.evaluate(
        "document.querySelector('.card .meta a[href]:not([href$=ffff])').getAttribute('href').slice(1)"
    )
    tab.fill("input[name=words]", "no such word")
    tab.evaluate(f"location.hash = '{other}'")
    tab.wait_for_selector(f"#{other}[open]", state="visible")
    assert tab.evaluate(f"document.getElementById('{other}').getBoundingClientRect().top < innerHeight")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read_on_what_is_behind_it(browser, hostile, scheme):
    with browser.new_page(color_scheme=scheme) as tab:
        tab.goto(hostile.as_uri())
        tab.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
        assert tab.evaluate(CONTRASTS) == []


def test_texts_of_charts_can_be_read_on_light_and_on_dark_pages():
    def contrast(one, other):
        def light(colour):
            parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
            parts = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
            return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

        high, low = sorted((light(one), light(other)), reverse=True)
        return (high + 0.05) / (low + 0.05)

    style = report_module._file("report.css")
    light, dark = re.findall(r"--page: (#\w{6})", style)
    assert contrast(chart.TEXT, light) >= 4.5
    assert contrast(chart.TEXT_ON_DARK, dark) >= 4.5
    svg = chart.lines({"a": {0: 1.0, 1: 2.0}}, "label")
    texts = re.findall(r"<text style=\"[^\"]*\"", svg)
    assert len(texts) > 3
    assert all(chart.TEXT in text for text in texts)
    assert f'prefers-color-scheme: dark) {{ text[style*="{chart.TEXT}"] {{ fill: {chart.TEXT_ON_DARK}' in svg


def test_a_phone_scrolls_it_in_one_direction_only(browser, hostile):
    with browser.new_page(viewport={"width": 390, "height": 800}) as tab:
        tab.goto(hostile.as_uri())
        tab.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390


def test_without_scripts_every_puzzle_is_there(browser, hostile):
    with browser.new_context(java_script_enabled=False) as context:
        tab = context.new_page()
        tab.goto(hostile.as_uri())
        assert shown(tab) == hostile.read_text().count('<details class="card"')
        assert not tab.is_visible(".filters")


def test_whether_puzzles_still_differ_is_drawn_beside_the_first_iterations_with_the_alarms():
    measures = {"well_formed": 0.5, "niche_entropy": 4.0, "vendi": 8.0, "human_auc": [0.7, 0.6, 0.8]}
    records = [
        {"iteration": 0, "collapse": {"alarms": []}},
        {"iteration": 1, "collapse": {"alarms": [], **measures}},
        {"iteration": 2, "collapse": {"alarms": ["Vendi score 2 fell below 0.5"], **measures, "vendi": 2.0}},
    ]
    (panel,) = panels.differing(records)
    assert panel.note == "relative to iteration 1; iteration 2: Vendi score 2 fell below 0.5"
    rows = [dict(zip(panel.head, row, strict=True)) for row in panel.rows]
    assert [row["vendi"] for row in rows] == ["8", "2"]
    assert rows[0]["human auc"] == ".700 [.600, .800]"
    assert [row["alarms"] for row in rows] == ["", "Vendi score 2 fell below 0.5"]
    assert list(panels.differing(records[:1])) == []
    assert list(panels.differing([{"iteration": 0}, {"iteration": 1}])) == []
