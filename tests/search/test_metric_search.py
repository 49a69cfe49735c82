"""A whole search whose objective is exact_match: ranking, adapters, study, resume."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from outcomes import read_back
from rich.console import Console
from searches import board, searched
from tune_lora.reports import build
from tune_lora.search import driver, preflight
from tune_lora.spaces import Space, SpaceError, load_space
from tune_lora.trainer.errors import TrialError
from tune_lora.trainer.folder import RunFolder

SpaceOf = Callable[..., Space]
TRAIN: dict[str, Any] = {
    "learning_rate": {"choice": [1e-6, 5e-3, 2e-2]},
    "lr_scheduler_type": "constant",
    "warmup_steps": 0,
    "max_steps": 12,
}
SEARCH: dict[str, Any] = {
    "trials": 3,
    "sampler": "grid",
    "priors": False,
    "baseline": False,
    "keep_adapters": 1,
    "scheduler": {"median": {"interval_steps": 3}},
    "metric": "exact_match",
    "metrics": ["json_valid", "json_f1"],
    "generation": {"rows": 2, "max_new_tokens": 4},
}


@pytest.fixture(scope="module")
def sevens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows with an answer of one token, which is learned in a few steps."""
    path = tmp_path_factory.mktemp("data") / "sevens.jsonl"
    rows = [{"instruction": f"Count: {i}", "response": "7"} for i in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def matching(space_of: SpaceOf, sevens: Path) -> Callable[..., Space]:
    """The space, with further keys of its search block."""

    def made(**search: Any) -> Space:
        return space_of(
            data={"train": str(sevens)},
            lora={"r": 8, "target_modules": "all-linear"},
            train=TRAIN,
            search={**SEARCH, **search},
        )

    return made


def test_the_objective_ranks_keeps_and_is_told(
    matching: Callable[..., Space], tmp_path: Path
) -> None:
    space = matching()
    run = driver.new_run(space, tmp_path / "run")
    said = Console(file=io.StringIO(), width=200)
    outcome = driver.run_search(space, run, said, local=True)
    results = list(run.results())
    shares = {r.config["train"]["learning_rate"]: r.score for r in results}
    assert (shares[1e-6], max(shares.values())) == (0.0, 1.0)
    for result in results:
        metrics = [e.metrics for e in result.evaluations]
        best = max(e["exact_match"] for e in metrics)
        assert result.score == best
        same = [e for e in result.evaluations if e.metrics["exact_match"] == best]
        assert result.best_step == min(same, key=lambda e: e.eval_loss).step
        assert all(set(e) == {"exact_match", "json_valid", "json_f1"} for e in metrics)

    ranked = sorted(results, key=lambda r: (-(r.score or 0), r.best.eval_loss if r.best else 0))
    assert [int(row["trial"]) for row in board(run)] == [r.number for r in ranked]
    assert {n for n in range(3) if run.trial(n).adapter.is_dir()} == {ranked[0].number}
    step = json.loads((run.trial(ranked[0].number).adapter / "step.json").read_text("utf-8"))
    assert step == ranked[0].best_step

    study = optuna.load_study(study_name=run.name, storage=f"sqlite:///{run.study}")
    assert study.direction is optuna.study.StudyDirection.MAXIMIZE
    assert study.best_value == 1.0
    for result, told in zip(results, read_back(run), strict=True):
        assert told.value == result.score
        wanted = {e.step: e.metrics["exact_match"] for e in result.evaluations}
        assert told.intermediate_values == wanted

    base = run.read_base()
    assert base is not None
    assert base.metrics["exact_match"] == 0.0
    assert outcome.board.base is not None
    assert outcome.board.base.metrics == base.metrics
    assert isinstance(said.file, io.StringIO)
    text = said.file.getvalue()
    assert "metric: exact_match (more is better); besides eval_loss, json_valid, json_f1" in text
    assert "best so far 1.0000" in text
    assert run.report.is_file()


def test_another_metric_is_refused_on_resume(
    matching: Callable[..., Space], tmp_path: Path
) -> None:
    run = driver.new_run(matching(), tmp_path / "run")
    for changed in ({"metric": "json_f1"}, {"metrics": []}, {"generation": {"rows": 3}}):
        with pytest.raises(SpaceError, match=r"only the budget may change on --resume"):
            driver.resumed_run(matching(**changed), run.root)
    assert driver.resumed_run(matching(trials=4), run.root).root == run.root


def test_metrics_of_the_user_s_are_looked_at_before_the_model(
    matching: Callable[..., Space], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_of_search.py").write_text(
        "def right(predictions, references, rows):\n    return 1.0\n", encoding="utf-8"
    )
    monkeypatch.setattr(
        preflight.BaseSpec, "of", lambda model, **_: pytest.fail("a model is looked for")
    )
    with pytest.raises(SpaceError, match=r"search\.metrics = own_of_search:left.*has no left"):
        preflight.preflight(matching(metrics=["own_of_search:left"]))
    with pytest.raises(SpaceError, match=r"search\.metric = nowhere_at_all:f.*cannot be imported"):
        preflight.preflight(matching(metric="nowhere_at_all:f"))
    with pytest.raises(pytest.fail.Exception, match="a model"):
        preflight.preflight(matching(metric="own_of_search:right"))


def test_a_metric_that_breaks_ends_the_search_with_its_name(
    matching: Callable[..., Space], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken_of_search.py").write_text(
        "def wrong(predictions, references, rows):\n    return 1 / 0\n", encoding="utf-8"
    )
    space = matching(metric="broken_of_search:wrong", metrics=[])
    run = driver.new_run(space, tmp_path / "run")
    with pytest.raises(TrialError, match="broken_of_search:wrong failed: ZeroDivisionError"):
        searched(space, run)


def test_json_f1_wants_json_to_compare(space_of: SpaceOf, tmp_path: Path) -> None:
    rows = [{"instruction": f"Count: {i}", "response": "seven"} for i in range(20)]
    path = tmp_path / "words.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    space = space_of(data={"train": str(path)}, search={"metrics": ["json_f1"]})
    with pytest.raises(SpaceError, match=r"search\.metrics = json_f1.*no response of the 2 valid"):
        preflight.preflight(space)


def test_a_run_without_metrics_of_its_own_loads_as_one_judged_by_loss(
    space_of: SpaceOf, tmp_path: Path
) -> None:
    """As an earlier version wrote it."""
    run: RunFolder = driver.new_run(space_of("search.trials=1"), tmp_path / "run")
    searched(load_space(run.space), run)
    path = run.trial(0).result
    kept = json.loads(path.read_text("utf-8"))
    for gone in ("metric", "measures"):
        del kept["config"][gone]
    for evaluation in kept["evaluations"]:
        del evaluation["metrics"]
    path.write_text(json.dumps(kept), encoding="utf-8")
    (row,) = (row for row in build(run).rows if row.kind == "default")
    assert (row.metric, row.score) == ("eval_loss", kept["score"])
