"""A whole search with a general text: its columns everywhere, resume, export, refusals."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from searches import searched
from tune_lora.reports import build, terminal_table
from tune_lora.search import driver, preflight
from tune_lora.search.export import export_trial
from tune_lora.search.tracking import result_facts
from tune_lora.spaces import Space, SpaceError
from tune_lora.trainer import forgetting
from tune_lora.trainer.export import Forms

SpaceOf = Callable[..., Space]


def texts(path: Path, word: str = "weather") -> Path:
    lines = [json.dumps({"text": f"The {word} of day {n} was like that."}) for n in range(6)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture
def spaced(space_of: SpaceOf, tmp_path: Path) -> Callable[..., Space]:
    """The space with a general text, and further keys of its search block."""
    general = {"source": str(texts(tmp_path / "general.jsonl")), "rows": 4}

    def made(**search: Any) -> Space:
        block = {"trials": 2, "scheduler": "none", "priors": False, **search}
        lora = {"target_modules": "all-linear"}
        return space_of(data={"general": general}, lora=lora, search=block)

    return made


def test_every_leaderboard_and_the_card_show_it_and_a_resume_keeps_it(
    spaced: Callable[..., Space], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = spaced()
    run = driver.new_run(space, tmp_path / "run")
    said = Console(file=io.StringIO(), width=200)
    driver.run_search(space, run, said, local=True)
    assert isinstance(said.file, io.StringIO)
    text = said.file.getvalue()
    assert f"forgetting of each trial at its end, on {tmp_path / 'general.jsonl'}" in text
    assert "4 general rows" in text
    base = run.read_base()
    assert base is not None
    before = base.metrics["general_loss"]

    # Of the resumed search only the new trial is measured, and the base of the new process.
    kept = {result.number: result for result in run.results()}
    measured: list[str] = []
    after = forgetting._loss
    monkeypatch.setattr(
        forgetting, "_loss", lambda m, *rest: measured.append(type(m).__name__) or after(m, *rest)
    )
    longer = spaced(trials=3)
    board = searched(longer, driver.resumed_run(longer, run.root)).board
    assert measured == ["LlamaForCausalLM", "PeftModelForCausalLM"]
    assert kept.items() <= {result.number: result for result in run.results()}.items()

    found = {r.name: r.best.metrics["forgetting"] for r in run.results() if r.best is not None}
    assert len(found) == 3
    for result in run.results():
        assert result.best is not None
        loss = result.best.metrics["general_loss"]
        assert found[result.name] == pytest.approx(loss - before, abs=1e-6)
        assert result_facts(result)["forgetting"] == found[result.name]
    with run.leaderboard("csv").open(encoding="utf-8") as file:
        shown = {row["name"]: row["forgetting"] for row in csv.DictReader(file)}
    assert {name: float(value) for name, value in shown.items()} == {**found, "base model": 0.0}
    data = json.loads(run.leaderboard("json").read_text("utf-8"))
    assert {r["name"]: r["metrics"]["forgetting"] for r in data["rows"]} == {
        **found,
        "base model": 0.0,
    }
    best = board.best
    assert best is not None
    brief = f"{found[best.name]:.4f}"
    heads, *lines = (
        [cell.strip() for cell in line.split("|")]
        for line in run.leaderboard("md").read_text("utf-8").splitlines()
        if line.startswith("|")
    )
    assert dict(zip(heads, lines[1], strict=True))["forgetting"] == brief
    page = run.report.read_text("utf-8")
    assert f'data-value="{found[best.name]!r}">{brief}</td>' in page
    table = Console(file=io.StringIO(), width=160)
    table.print(terminal_table(build(run), 160))
    assert isinstance(table.file, io.StringIO)
    assert brief in table.file.getvalue()

    exported = export_trial(run, tmp_path / "out", None, Forms())
    assert exported.scores.further["forgetting"][:2] == (found[best.name], 0.0)
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    (line,) = (line for line in card.splitlines() if line.startswith("| forgetting"))
    assert line.startswith(
        f"| forgetting (on the general text, in nats a token) | {brief} | 0.0000 |"
    )


def test_another_text_is_refused_on_resume(spaced: Callable[..., Space], tmp_path: Path) -> None:
    space = spaced(trials=1)
    run = driver.new_run(space, tmp_path / "run")
    searched(space, run)
    texts(tmp_path / "general.jsonl", "harvest")
    longer = spaced(trials=2)
    with pytest.raises(SpaceError, match="are not those that the run was begun with"):
        searched(longer, driver.resumed_run(longer, run.root))


def test_it_is_looked_at_before_a_model_is_loaded(
    space_of: SpaceOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "meta_model", lambda *_: pytest.fail("a model is made"))
    with pytest.raises(SpaceError, match=r"data\.general\.source = \./none\.jsonl: no such file"):
        preflight.preflight(space_of(data={"general": "./none.jsonl"}))
