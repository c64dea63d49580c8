"""Results of a benchmark in the browser and as one file: what they show, and that hostile results stay text."""

import asyncio
import json
import re
import shutil
from html import unescape
from pathlib import Path

import httpx
import pytest
from scripted import NAMES, Model, N, records, score, write_set
from test_report import Page
from test_view import TOKEN, elements_that_act, hostile

from puzzles.puzzle import InputError
from selfplay.commands.main import main
from selfplay.inspecting import benchmark_pages, benchmark_report, benchmarks, serving
from selfplay.inspecting.view import COOKIE, only_here
from selfplay.scoring import results
from selfplay.scoring.compare import compare

FIRST = dict(zip(NAMES, [6, 3, 1, 0, 2, 0, 0], strict=True))
SECOND = dict(zip(NAMES, [6, 0, 2, 4, 2, 0, 0], strict=True))
FIELDS = ("name", "answer_type", "text", "detail", "verdict", "skill")


@pytest.fixture(scope="module")
def made(pool, tmp_path_factory):
    """A folder with a puzzle file and two results, and a hostile copy of the first; not to be written into."""
    folder = tmp_path_factory.mktemp("benchmarks")
    own = write_set(folder / "own.jsonl")
    score(pool, Model(FIRST), own, folder / "a", path="model-a")
    score(pool, Model(SECOND), own, folder / "b", path="model-b", protocol="chat")
    shutil.copytree(folder / "a", folder / "hostile")
    spoil(folder / "hostile")
    return folder


def spoil(folder):
    """Put hostile texts wherever a result from a stranger may have any."""
    own, lines = results.read(folder)["selfplay"], results.unpack(folder)
    for line in lines:
        for result in line["results"]:
            result |= {"name": hostile("name"), "answer_type": hostile("answer_type"), "skills": [hostile("skill")]}
            result["texts"] = [f"{text}{hostile('text')}\ud800\u202e" for text in result["texts"]]
            result["details"] = [hostile("detail")] * len(result["details"])
            result["verdicts"] = [
                verdict if verdict == "accepted" else hostile("verdict") for verdict in result["verdicts"]
            ]
    facts = {key: value for key, value in own.items() if key in results.FACTS}
    facts["model"] |= {"path": hostile("model"), "checkpoint": hostile("checkpoint")}
    facts["set"] |= {"name": hostile("set")}
    results.pack(folder, lines)
    results.write(folder, results.document(facts, lines, {lines[0]["results"][0]["puzzle"]: hostile("erratum")}))


def shown(pool, made, *names, puzzles=True):
    return benchmarks.read([made / name for name in names], pool, str(made / "own.jsonl") if puzzles else None)


@pytest.fixture
def served(pool, made, tmp_path):
    """A function that answers addresses of the pages over some results."""

    def ask(*names, addresses, puzzles=True, cookie=f"{COOKIE}={TOKEN}", path=tmp_path / "b.sqlite"):
        results_shown = shown(pool, made, *names, puzzles=puzzles)
        path.unlink(missing_ok=True)
        benchmarks.fill(path, results_shown)
        datasette = benchmark_pages.over(path, results_shown)

        async def answers(application):
            transport = httpx.ASGITransport(app=application, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8001") as client:
                return [await client.get(address, headers={"cookie": cookie}) for address in addresses]

        try:
            return asyncio.run(answers(only_here(datasette.app(), TOKEN)))
        finally:
            serving.close(datasette)

    return ask


def text_of(answer):
    return " ".join(unescape(re.sub(r"<[^>]*>", "", answer.text)).split())


def named(answer):
    """Names of the puzzles that a page lists, in order."""
    return [unescape(name) for name in re.findall(r'class="id" href="/puzzle/\w+">([^<]*)</a>', answer.text)]


def ids(made):
    return {r["name"]: r["puzzle"] for line in results.unpack(made / "a") for r in line["results"]}


# ---- what they show ----


def test_the_first_page_has_both_scores_the_difference_and_what_was_won_and_lost(served, made):
    (home,) = served("a", "b", addresses=["/"])
    comparison, text = compare(made / "a", made / "b", anyway=True), text_of(home)
    assert [name for name, *_ in comparison.won] == ["remainder"]
    assert [name for name, *_ in comparison.lost] == ["square"]
    for own in (comparison.first, comparison.second):
        for score_ in own["scores"].values():
            assert f"{score_['value']:.3f}".removeprefix("0")[:4] in text
    assert "B solved 1 puzzles that A did not solve, and A 1 that B did not." in text
    assert "The results differ in protocol (plain and chat)." in text
    assert named(home) == NAMES


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("outcome=won", ["remainder"]), ("outcome=lost", ["square"]), ("outcome=better", ["letters", "remainder"]),
        ("outcome=unsolved", ["remainder", "upper", "pair"]), ("skill=text", ["letters", "upper"]),
        ("difficulty=3", ["remainder", "pair"]), ("type=str", ["letters", "upper"]), ("skill=nowhere", []),
        ("verdict=accepted&sort=hardest", ["remainder", "letters", "sum", "square", "thirds"]),
        ("rule=syntax&outcome=solved", ["square", "letters", "sum"]),
    ],
)  # fmt: skip
def test_puzzles_are_filtered_and_ordered(served, query, expected):
    (answer,) = served("a", "b", addresses=[f"/?{query}"])
    assert named(answer) == expected


def test_a_puzzle_has_its_prompts_and_every_sample_of_both_with_its_verdict_and_why(served, made, pool):
    puzzle = ids(made)["square"]
    (answer,) = served("a", "b", addresses=[f"/puzzle/{puzzle}"])
    text = text_of(answer)
    first, second = shown(pool, made, "a", "b")
    for result in (first, second):
        assert " ".join(result.prompts[puzzle].whole.split()) in text
    for label, own in (("A", FIRST), ("B", SECOND)):
        assert f"<dt>{label}</dt><dd>{own['square']} of {N} samples accepted</dd>" in answer.text
    assert f"accepted {FIRST['square']} def g(k=1764): return 42 {FIRST['square']} times, first as sample 0" in text
    assert "invalid_solution: syntax" in text
    assert "runtime_error" in text
    for line in results.unpack(made / "a"):
        for result in line["results"]:
            if result["puzzle"] == puzzle:
                assert all(detail in text for detail in result["details"])


def test_samples_are_filtered_by_result_verdict_rule_and_code(served):
    everything, syntax, code, none = served(
        "a", "b", addresses=["/samples", "/samples?verdict=invalid_solution&rule=syntax&result=A",
                             "/samples?words=1+//+0", "/samples?words=1+//+0&verdict=accepted"],
    )  # fmt: skip
    assert f"Samples {2 * N * len(NAMES)}" in text_of(everything)
    assert "return (" in text_of(syntax)
    assert ">B</span>" not in syntax.text
    assert "<mark>" in code.text
    assert "return 1 // 0" in text_of(code)
    assert "There are no such samples." in text_of(none)


def test_one_result_alone_is_shown_without_the_words_of_a_comparison(served):
    home, wrong = served("a", addresses=["/", "/?outcome=won"])
    assert "model-a solves .286" in text_of(home)
    assert "B - A" not in text_of(home)
    assert "outcome: expected one of solved, unsolved, got 'won'" in text_of(wrong)


def test_puzzles_and_prompts_are_read_only_from_a_file_that_the_user_names(served, made):
    home, puzzle = served("a", addresses=["/", f"/puzzle/{ids(made)['square']}"], puzzles=False)
    assert "own.jsonl: name this file with --puzzles to see them" in text_of(home)
    assert "The puzzle's text is not in the results." in text_of(puzzle)
    assert "x * x == k" not in home.text + puzzle.text


def test_prompts_that_are_not_those_that_were_scored_are_not_shown(pool, made, tmp_path):
    shutil.copytree(made / "a", tmp_path / "a")
    content = json.loads((tmp_path / "a" / "results.json").read_text())
    content["selfplay"]["prompts_hash"] = "0" * 16
    (tmp_path / "a" / "results.json").write_text(json.dumps(content))
    (result,) = benchmarks.read([tmp_path / "a"], pool, str(made / "own.jsonl"))
    assert result.prompts == {}
    assert result.notes == ["the prompts are not shown, because this version does not write them as they were scored"]


def test_a_named_file_with_other_puzzles_is_refused(pool, made, tmp_path):
    other = write_set(tmp_path / "other.jsonl", records()[1:])
    with pytest.raises(InputError, match="expected the scored puzzles, 1 of them are not there"):
        benchmarks.read([made / "a"], pool, str(other))


def test_samples_that_do_not_fit_their_results_are_refused(pool, made, tmp_path):
    shutil.copytree(made / "a", tmp_path / "a")
    shutil.copy(made / "b" / "samples.jsonl.gz", tmp_path / "a")
    with pytest.raises(InputError, match=r"has other verdicts than results\.json"):
        benchmarks.read([tmp_path / "a"], pool)


# ---- what they must not do ----


def addresses(made):
    puzzle = ids(made)["square"]
    tables = [f"/{benchmark_pages.NAME}/{name}" for name in (*benchmarks.NAMES, "verdicts", "hardest")]
    return ["/", f"/puzzle/{puzzle}", "/samples", "/samples?words=return", f"/{benchmark_pages.NAME}", *tables]


def test_hostile_results_are_text_on_every_page(served, made):
    pages = served("hostile", "a", addresses=addresses(made))
    assert {answer.status_code for answer in pages} == {200}
    for answer in pages:
        assert "<script>ran" not in answer.text
        assert "<img" not in answer.text
        assert "\u202e" not in answer.text
    whole = "".join(unescape(re.sub(r"</?(span|mark)[^>]*>", "", answer.text)) for answer in pages)
    for place in ("name", "answer_type", "text", "detail", "verdict", "skill", "model", "checkpoint", "set", "erratum"):
        assert hostile(place) in whole, place


def test_texts_of_any_length_leave_pages_short(pool, made, tmp_path, served):
    folder = made / "long"
    if not folder.exists():
        shutil.copytree(made / "a", folder)
        lines = results.unpack(folder)
        for result in lines[0]["results"]:
            result |= {"name": "n" * 100_000, "texts": ["x" * 100_000 + str(i) for i in range(N)]}
        results.pack(folder, lines)
    for answer in served("long", addresses=["/", f"/puzzle/{ids(made)['square']}", "/samples"]):
        assert answer.status_code == 200
        assert len(answer.text) < 2_000_000
    assert len(benchmark_report.report(shown(pool, made, "long"))) < 5_000_000


def test_pages_of_results_forbid_all_but_their_style_and_have_no_script(served, made):
    for answer in served("hostile", "a", addresses=addresses(made)[:4]):
        assert answer.headers["content-security-policy"].startswith("default-src 'none'; style-src 'self';")
        assert elements_that_act(answer.text) == []


def test_nobody_without_the_token_sees_results(served, made):
    for answer in served("a", addresses=addresses(made), cookie=f"{COOKIE}=other"):
        assert answer.status_code == 403


@pytest.mark.parametrize(
    "sql",
    ["insert into results values (1, 2, 3, 4, 5, 6)", "drop table samples", "attach 'x' as y", "select randomblob(9)",
     "select load_extension('x')", "select * from dbstat", "pragma user_version = 9", "vacuum into 'other.sqlite'"],
)  # fmt: skip
def test_sql_over_results_reads_and_does_nothing_else(served, sql):
    bad, good = served(
        "a", addresses=[httpx.URL("/benchmark.json", params={"sql": sql}), "/benchmark.json?sql=select+1+from+samples"]
    )
    assert (bad.status_code, good.status_code) == (400, 200)


# ---- as one file ----


def test_the_report_has_every_sample_once_with_its_number_and_filters(pool, made):
    html = benchmark_report.report(shown(pool, made, "a", "b"))
    page = Page(html)
    cards = [attributes for attributes in page.with_tag("details") if attributes.get("class") == "card"]
    assert [card["id"].removeprefix("pair-") for card in cards] == list(ids(made).values())
    changes = dict(zip(NAMES, (card.get("data-change") for card in cards), strict=True))
    assert {name: change for name, change in changes.items() if change} == {"square": "lost", "remainder": "won"}
    text = " ".join("".join(page.texts).split())
    assert f"{FIRST['square']} accepted {FIRST['square']} times" in text
    assert "own pass@k over k" in text
    for label, own in (("A", FIRST), ("B", SECOND)):
        for name in NAMES:
            assert f"{label} {own[name]} of {N} accepted" in text
    for result in shown(pool, made, "a", "b"):
        for sample in benchmarks.samples_of(result):
            assert " ".join(sample["text"].split()) in text


def test_a_report_of_hostile_results_has_our_script_and_our_links_alone(pool, made):
    page = Page(benchmark_report.report(shown(pool, made, "hostile", "a")))
    assert len(page.with_tag("script")) == len(page.with_tag("style")) == 1
    assert all(link["href"].startswith("#") for link in page.with_tag("a"))
    assert all(image["src"].startswith("data:image/svg+xml;base64,") for image in page.with_tag("img"))
    assert not any(name.startswith("on") or name == "style" for _, attributes in page.tags for name in attributes)
    assert "ran = 'text'" in "".join(page.texts)


def test_filters_of_a_report_work_in_a_browser_and_no_stored_script_runs(pool, made, browser, tmp_path):
    file = tmp_path / "report.html"
    file.write_text(benchmark_report.report(shown(pool, made, "a", "hostile")), "utf-8")
    with browser.new_page() as tab:
        said = []
        tab.on("console", lambda message: said.append(message.text))
        tab.goto(file.as_uri())
        assert tab.evaluate("typeof ran") == "undefined"
        assert said == []
        everything = tab.locator(".card:visible").count()
        number = tab.eval_on_selector_all(
            "select[name=kind] option", "o => o.find(x => x.textContent.startsWith('invalid_solution: syntax')).value"
        )
        tab.select_option("select[name=kind]", number)
        assert 0 < tab.locator(".card:visible").count() < everything
        tab.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
        assert set(tab.eval_on_selector_all(".kind:not([hidden])", "k => k.map(x => x.dataset.kind)")) == {number}


def test_samples_without_room_are_left_out_and_said(pool, made, monkeypatch):
    monkeypatch.setattr(benchmark_report, "MOST_BYTES", 12_000)
    html = benchmark_report.report(shown(pool, made, "a"))
    assert html.count('<details class="card"') == len(NAMES)
    assert 0 < html.count("There is no room for its samples on this page") < len(NAMES)


# ---- the commands ----


def test_the_commands_take_folders_and_names_below_runs(made, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        shutil.copytree(made / name, Path("runs") / name)
    assert main(["report", "a", "b", "--puzzles", str(made / "own.jsonl")]) == 0
    assert capsys.readouterr().out.startswith("runs/a/report-b.html: ")
    assert main(["compare", "runs/a", "runs/b", "--anyway", "--chart", "c.svg"]) == 0
    assert Path("c.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["view", "a", "nothing"], "nothing: expected a folder that `selfplay bench` wrote, as a is"),
        (["view", "a", "a", "a"], "expected at most 2 results"),
        (["view", "nothing", "else"], "else: expected one archive, or one or two folders that `selfplay bench` wrote"),
        (["report", "nothing", "--puzzles", "x"], "--puzzles is about a benchmark"),
        (["report", "a", "--puzzles", "nowhere.jsonl"], "nowhere.jsonl"),
    ],
)
def test_a_place_that_is_no_result_is_one_clear_line(made, monkeypatch, capsys, arguments, told):
    monkeypatch.chdir(made)
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert told in err
    assert err.count("\n") == 1
