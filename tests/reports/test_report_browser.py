"""The report in a real browser, with its scripts run: numbers, sorting, filtering, what is text.

What can be said of the page without one is in test_report_page.py.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from dataclasses import dataclass
from hashlib import sha256
from html import unescape
from pathlib import Path
from typing import Any

import optuna
import pytest
from browser import dump, needs_chromium
from fake_runs import make_run, many_sizes, mixed_run, result
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import create_trial
from page_rows import Rows, check_rows, rows_of
from test_report_page import Page, searched
from tune_lora.reports import build, to_json
from tune_lora.reports.html import to_html
from tune_lora.trainer.folder import RunFolder, write_json
from tune_lora.trainer.result import TrialState

# Both directions of every column, then the fields; what a user would see is written down.
ACTS = """
const log = {};
const body = document.querySelector("#rows tbody");
const note = (name) => {
  const seen = [...body.rows].filter((row) => row.offsetParent !== null);
  log[name] = {
    names: seen.map((row) => row.cells[1].dataset.value),
    values: Object.fromEntries([...document.querySelectorAll("#rows th")].map((head) => [
      head.textContent, seen.map((row) => row.cells[head.cellIndex].dataset.value)])),
    count: document.querySelector("#count").textContent,
  };
};
const words = document.querySelector("#words"), state = document.querySelector("#state");
const filter = (typed, chosen) => {
  words.value = typed; words.dispatchEvent(new Event("input"));
  state.value = chosen; state.dispatchEvent(new Event("change"));
  note(`filter ${typed} ${chosen}`);
};
note("start");
for (const head of document.querySelectorAll("#rows th")) {
  for (const way of ["up", "down"]) {
    head.querySelector("button").click();
    note(`${way} ${head.textContent}`);
  }
}
filter("", "PRUNED"); filter("TRIAL-001", ""); filter("trial-001 pruned", "");
filter("trial-001", "COMPLETE"); filter("no such", ""); filter("", "");
"""
# Before anything else: whatever the page asks of a server, or would have asked, but for its policy.
WATCH = """
window.asked = [];
addEventListener("securitypolicyviolation", (event) =>
  asked.push(`${event.violatedDirective} ${event.blockedURI}`));
addEventListener("error", (event) => asked.push(`error ${event.message}`), true);
"""
TELL = """
addEventListener("load", () => setTimeout(() => {
  asked.push(...performance.getEntriesByType("resource").map((entry) => entry.name));
  log_of("asked", asked);
}, 2000));
"""
LOG = """
const log_of = (name, what) => {
  const place = document.createElement("pre");
  place.id = `log-${name}`;
  place.textContent = JSON.stringify(what);
  document.body.append(place);
};
"""
PWN = "document.documentElement.dataset.pwned=1"
EVIL = (
    f'</script><script>{PWN}</script><img src=x onerror="{PWN}">"\'&amp;&lt;'
    f'</td></table></pre><a href="javascript:{PWN}">a</a>'
)


def driven(text: str, last: str, first: str = "") -> str:
    """The page with scripts of a test, which its policy is told of."""
    for script in filter(None, (first, last)):
        digest = b64encode(sha256(script.encode()).digest()).decode()
        assert text.count("script-src ") == 1
        text = text.replace("script-src ", f"script-src 'sha256-{digest}' ")
    head, body = text.index("<title>"), text.rindex("</body>")
    before = f"<script>{first}</script>" if first else ""
    return f"{text[:head]}{before}{text[head:body]}<script>{last}</script>{text[body:]}"


def logged(document: str, name: str) -> Any:
    found = re.search(rf'<pre id="log-{name}">(.*?)</pre>', document, re.DOTALL)
    assert found, "the page's or the test's script did not run to its end"
    return json.loads(unescape(found[1]))


@dataclass(frozen=True)
class Opened:
    """A run's page when its scripts have run, what they did, and the run's leaderboard.json."""

    document: str
    log: dict[str, Any]
    asked: list[str]
    figures: int
    data: dict[str, Any]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Opened:
    run = searched(tmp_path_factory.mktemp("one") / "run")
    board = build(run)
    text = to_html(run, board)
    page = run.root / "page.html"
    last = f'{LOG}{TELL}{ACTS}log_of("acts", log);'
    page.write_text(driven(text, last, WATCH), encoding="utf-8")
    document = dump(page, height=9000)
    return Opened(
        document,
        logged(document, "acts"),
        logged(document, "asked"),
        len(Page(text).figures),
        json.loads(to_json(board)),
    )


@needs_chromium
class TestOpened:
    def test_every_figure_is_drawn(self, opened: Opened) -> None:
        drawn = re.findall(r"<div[^>]*js-plotly-plot[^>]*>", opened.document)
        assert len(drawn) == opened.figures >= 8

    def test_nothing_is_asked_of_a_server_and_nothing_fails(self, opened: Opened) -> None:
        assert opened.asked == []

    def test_rows_begin_in_the_order_of_the_leaderboard(self, opened: Opened) -> None:
        start = opened.log["start"]
        assert start["names"] == [row["name"] for row in opened.data["rows"]]
        assert start["count"] == f"{len(start['names'])} of {len(start['names'])} rows"

    def test_every_column_sorts_both_ways_and_loses_no_row(self, opened: Opened) -> None:
        start = opened.log["start"]["values"]
        assert len(start) > 10
        for head, values in start.items():
            present = [value for value in values if value]
            try:
                ordered: list[Any] = sorted(present, key=float)
            except ValueError:
                ordered = sorted(present)
            absent = [""] * (len(values) - len(present))
            assert opened.log[f"up {head}"]["values"][head] == ordered + absent
            assert opened.log[f"down {head}"]["values"][head] == ordered[::-1] + absent
            assert sorted(opened.log[f"down {head}"]["names"]) == sorted(
                row["name"] for row in opened.data["rows"]
            )

    def test_a_row_stays_whole_when_rows_are_sorted(self, opened: Opened) -> None:
        losses = {row["name"]: row["eval_loss"] for row in opened.data["rows"]}
        seen = opened.log["down learning_rate"]
        values = zip(seen["names"], seen["values"]["eval_loss"], strict=True)
        assert {name: float(value) for name, value in values} == losses

    @pytest.mark.parametrize(
        ("typed", "state", "fits"),
        [
            ("", "PRUNED", lambda row: row["state"] == "PRUNED"),
            ("TRIAL-001", "", lambda row: row["name"].startswith("trial-001")),
            ("trial-001 pruned", "", lambda row: row["name"] == "trial-0011"),
            ("trial-001", "COMPLETE", lambda row: row["name"] == "trial-0010"),
            ("no such", "", lambda row: False),
            ("", "", lambda row: True),
        ],
    )
    def test_the_fields_filter(self, opened: Opened, typed: str, state: str, fits: Any) -> None:
        found = opened.log[f"filter {typed} {state}"]
        expected = {row["name"] for row in opened.data["rows"] if fits(row)}
        assert set(found["names"]) == expected
        assert found["count"] == f"{len(expected)} of {len(opened.data['rows'])} rows"

    def test_hidden_rows_are_hidden_in_the_document(self, opened: Opened) -> None:
        assert not any(Rows(opened.document).hidden)


@needs_chromium
@pytest.mark.parametrize("make", [mixed_run, many_sizes, searched])
def test_a_reader_sees_the_numbers_of_the_leaderboard(tmp_path: Path, make: Any) -> None:
    run = make(tmp_path / "run")
    board = build(run)
    page = tmp_path / "page.html"
    page.write_text(to_html(run, board), encoding="utf-8")
    check_rows(rows_of(dump(page)), json.loads(to_json(board)))


def hostile(root: Path) -> RunFolder:
    """Tags, quotes and entities wherever a user, a model or an error can put text."""
    name = EVIL.replace("/", "\\")
    kinds = {"target_modules": CategoricalDistribution(["qv", EVIL])}
    both = {**kinds, EVIL: FloatDistribution(0.0, 1.0)}
    results, trials = [], []
    for number in range(6):
        lora = {"target_modules": ("qv", EVIL)[number % 2], EVIL: number / 10}
        results.append(result(number, 1 + number / 10, lora=lora))
        params = {"target_modules": lora["target_modules"], EVIL: number / 10}
        trials.append(create_trial(params=params, distributions=both, value=1.0))
    results.append(result(6, None, TrialState.FAILED, step=0, error=f"ValueError: {EVIL}\n{EVIL}"))
    run = make_run(root / name, results)
    about = run.read_about()
    about |= {"model": {"name": EVIL}, "metric": EVIL, "command": EVIL, "started": EVIL}
    about["data"] |= {"source": EVIL}
    about["versions"] = {EVIL: EVIL}
    write_json(run.about, about)
    run.space.write_text(f"# {EVIL}\n", encoding="utf-8")
    storage = f"sqlite:///{root / 'study.db'}"
    optuna.create_study(storage=storage, study_name="any").add_trials(trials)
    run.study.write_bytes((root / "study.db").read_bytes())
    return run


@needs_chromium
@pytest.mark.parametrize("policy", [True, False])
def test_what_others_wrote_is_text(tmp_path: Path, policy: bool) -> None:
    """With the page's policy, and by its escaping alone."""
    run = hostile(tmp_path)
    board = build(run)
    text = to_html(run, board)
    if not policy:
        text, count = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
        assert count == 1
    page = tmp_path / "page.html"
    page.write_text(text, encoding="utf-8")
    document = dump(page, height=9000)
    assert "data-pwned" not in document.partition("<head")[0]
    seen = Page(document)
    assert [tag for tag, _ in seen.tags].count("script") == [
        tag for tag, _ in Page(text).tags
    ].count("script")
    assert "x" not in [given.get("src") for tag, given in seen.tags if tag in ("img", "image")]
    links = [
        value for _, given in seen.tags for key, value in given.items() if key.endswith("href")
    ]
    assert all(link and link.startswith("#") for link in links)
    title = re.search(r"<title>(.*?)</title>", document)
    assert title
    assert unescape(title[1]) == f"{run.name} - tune-lora"
    drawn = re.findall(r"<div[^>]*js-plotly-plot[^>]*>", document)
    assert len(drawn) == len(Page(text).figures) >= 6
    check_rows(rows_of(document), json.loads(to_json(board)))
