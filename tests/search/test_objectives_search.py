"""A whole search by loss, forgetting and size: study, ranking, kept adapters, resume, seeds."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from peeled import peeled
from rich.console import Console
from searches import board, searched
from tune_lora.search import driver
from tune_lora.spaces import Space

SpaceOf = Callable[..., Space]
NAMES = ["eval_loss", "forgetting", "parameters"]


def test_a_search_by_three_objectives(space_of: SpaceOf, tmp_path: Path) -> None:
    general = tmp_path / "general.jsonl"
    general.write_text("\n".join(json.dumps({"text": f"Day {n} was fine."}) for n in range(4)))

    def space(**search: Any) -> Space:
        return space_of(
            data={"general": str(general)},
            lora={"r": {"choice": [2, 4, 8]}, "target_modules": "all-linear"},
            train={"learning_rate": {"log_uniform": [1e-4, 1e-1]}, "max_steps": 2},
            search={
                "metric": NAMES,
                "scheduler": "none",
                "keep_adapters": 2,
                "priors": False,
                **search,
            },
        )

    run = driver.new_run(space(trials=4), tmp_path / "run")
    said = Console(file=io.StringIO(), width=200)
    driver.run_search(space(trials=4), run, said, local=True)
    assert isinstance(said.file, io.StringIO)
    assert "while they train eval_loss alone decides" in said.file.getvalue()
    longer = space(trials=6)
    found = searched(longer, driver.resumed_run(longer, run.root)).board

    results = list(run.results())
    assert len(results) == 6
    values = [tuple(r.values[name] or 0.0 for name in NAMES) for r in results]
    fronts = peeled(values)
    rows = board(run)
    assert [int(row["front"]) for row in rows] == sorted(fronts)
    ranked = sorted(range(6), key=lambda n: (fronts[n], values[n][0]))
    assert [int(row["trial"]) for row in rows] == ranked
    assert values[ranked[0]][0] == min(loss for loss, *_ in values)

    study = optuna.load_study(study_name=run.name, storage=f"sqlite:///{run.study}")
    assert [trial.values for trial in study.trials] == [list(each) for each in values]
    assert {t.number for t in study.best_trials} == {row.trial for row in found.front}
    kept = {n for n in range(6) if run.trial(n).adapter.is_dir()}
    assert len(kept) == 2
    assert ranked[0] in kept
    assert run.report.read_text("utf-8").count('id="pareto-1"') == 1

    # The first of the ranking that have weights are trained again, and stay where their front is.
    confirmed = space(trials=6, confirm={"top": 1, "seeds": 2})
    again = searched(confirmed, driver.resumed_run(confirmed, run.root)).board
    assert [row.trial for row in again.rows if row.confirmed] == [ranked[0]]
    assert [row.front for row in again.rows if row.front] == sorted(fronts)
    for rerun in run.confirmations()[ranked[0]]:
        assert rerun.best is not None
        assert "forgetting" in rerun.best.metrics
