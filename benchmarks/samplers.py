"""How soon a search finds good settings: measured LoRA runs, replayed as a search problem.

    python benchmarks/samplers.py CSV [--seeds 20] [--out FILE.md]

CSV is a table of finished runs with the columns model, learning_rate, rank and test_nll. For each
model a search draws a learning rate (log-uniform, 3e-5 to 2e-3) and one of the ranks in the table;
a proposal gets the loss of the nearest run: the same rank, then the nearest logarithm of the
learning rate. No trial 0 with the default configuration is run.
"""

from __future__ import annotations

import argparse
import csv
import math
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import optuna
import yaml
from tune_lora.search.study import Study
from tune_lora.spaces import Label, Space, load_space
from tune_lora.trainer.result import TrialResult, TrialState

Cells = Mapping[tuple[int, float], float]
Search = Callable[[Cells, int], Iterator[float]]
Regrets = list[list[float]]

AFTER = (3, 5, 10)
LOW, HIGH = 3e-5, 2e-3
RATE, RANK = "train.learning_rate", "lora.r"
PLAIN = "plain TPE (Optuna's defaults)"


def read(path: Path) -> dict[str, Cells]:
    """Mean test loss (nats a token) by rank and learning rate, by model."""
    runs: dict[str, dict[tuple[int, float], list[float]]] = defaultdict(lambda: defaultdict(list))
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            cell = int(row["rank"]), float(row["learning_rate"])
            runs[row["model"]][cell].append(float(row["test_nll"]))
    return {m: {c: statistics.fmean(v) for c, v in cells.items()} for m, cells in runs.items()}


def measured(cells: Cells, rank: int, rate: float) -> float:
    """Loss of the run nearest to a proposal."""
    rates = [r for k, r in cells if k == rank]
    return cells[rank, min(rates, key=lambda r: abs(math.log(r / rate)))]


def ranks(cells: Cells) -> list[int]:
    """All ranks in the table of a model."""
    return sorted({rank for rank, _ in cells})


def space_of(cells: Cells, seed: int, sampler: str, priors: bool) -> Space:
    """The search problem as a space file says it."""
    body = {
        "model": {"name": "replayed"},
        "data": {"train": "replayed.jsonl"},
        "lora": {"r": {"choice": ranks(cells)}},
        "train": {"learning_rate": {"log_uniform": [LOW, HIGH]}, "max_steps": 1},
        "search": {
            "trials": AFTER[-1],
            "sampler": sampler,
            "priors": priors,
            "baseline": False,
            "seed": seed,
        },
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "space.yaml"
        path.write_text(yaml.safe_dump(body), encoding="utf-8")
        return load_space(path)


def searched(
    cells: Cells, seed: int, sampler: str, priors: bool, first: Sequence[Mapping[str, Label]] = ()
) -> Iterator[float]:
    """Loss of each trial that a study of this package asks for."""
    study = Study(space_of(cells, seed, sampler, priors), Path(":memory:"), "replay", first)
    for config in iter(study.next_config, None):
        loss = measured(cells, config.lora["r"], config.train["learning_rate"])
        yield loss
        study.tell(TrialResult(config.number, TrialState.COMPLETE, config.to_dict(), score=loss))


def plain_tpe(cells: Cells, seed: int) -> Iterator[float]:
    """The same under Optuna's own defaults."""
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    for _ in range(AFTER[-1]):
        trial = study.ask()
        rank = trial.suggest_categorical(RANK, ranks(cells))
        loss = measured(cells, rank, trial.suggest_float(RATE, LOW, HIGH, log=True))
        yield loss
        study.tell(trial, loss)


def capped(cells: Cells, cap: int) -> int:
    """The largest rank up to a cap, else the smallest: how priors choose one."""
    return max((k for k in ranks(cells) if k <= cap), default=min(ranks(cells)))


def derived(models: Sequence[Cells]) -> list[tuple[int, float]]:
    """Three priors (cap of the rank, learning rate), each the one that helps these models most."""
    caps = sorted({rank for cells in models for rank, _ in cells})
    rates = sorted({rate for cells in models for _, rate in cells if LOW <= rate <= HIGH})
    losses = {
        (cap, rate): [measured(m, capped(m, cap), rate) for m in models]
        for cap in caps
        for rate in rates
    }
    best, found = [math.inf] * len(models), []
    for _ in range(3):
        found.append(min(losses, key=lambda c: sum(map(min, best, losses[c]))))
        best = [*map(min, best, losses[found[-1]])]
    return found


def without(table: Mapping[str, Cells], model: str) -> list[dict[str, Label]]:
    """Priors for a model that its own measurements had no part in."""
    chosen = derived([cells for name, cells in table.items() if name != model])
    return [{RANK: capped(table[model], cap), RATE: rate} for cap, rate in chosen]


def searches(priors: Sequence[Mapping[str, Label]]) -> dict[str, Search]:
    """What is compared, by the row's name; the priors are those of the other models."""
    return {
        "priors, then tpe (the default)": partial(searched, sampler="tpe", priors=True),
        "same, priors from the other models": partial(
            searched, sampler="tpe", priors=False, first=priors
        ),
        "tpe without priors": partial(searched, sampler="tpe", priors=False),
        PLAIN: plain_tpe,
        "random": partial(searched, sampler="random", priors=False),
        "gp without priors": partial(searched, sampler="gp", priors=False),
    }


def replay(cells: Cells, seeds: int, priors: Sequence[Mapping[str, Label]]) -> dict[str, Regrets]:
    """Simple regret (nats a token) of one model, by row, seed and AFTER."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    lowest, found = min(cells.values()), {}
    for name, search in searches(priors).items():
        losses = [list(search(cells, seed)) for seed in range(seeds)]
        found[name] = [[min(each[:n]) - lowest for n in AFTER] for each in losses]
    return found


def table_of(results: Sequence[Mapping[str, Regrets]]) -> str:
    """Mean +- standard error over models and seeds in millinats, and ratios to plain TPE."""
    columns = {
        name: list(zip(*(row for result in results for row in result[name]), strict=True))
        for name in results[0]
    }
    plain = [statistics.fmean(column) for column in columns[PLAIN]]
    lines = [f"| | {' | '.join(f'{n} trials' for n in AFTER)} |", "|---" * 4 + "|"]
    for name, values in columns.items():
        texts = []
        for column, reference in zip(values, plain, strict=True):
            mean = statistics.fmean(column)
            error = statistics.stdev(column) / math.sqrt(len(column))
            ratio = mean / reference if reference else math.nan
            texts.append(f"{1e3 * mean:.2f} ± {1e3 * error:.2f} ({ratio:.2f})")
        lines.append(f"| {name} | {' | '.join(texts)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("csv", type=Path)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    table = read(given.csv)
    priors = [without(table, model) for model in table]
    with ProcessPoolExecutor(2) as pool:
        results = list(pool.map(replay, table.values(), [given.seeds] * len(table), priors))
    text = (
        f"Simple regret in millinats a token, mean ± standard error over {len(table)} models x "
        f"{given.seeds} seeds\n(ratio to plain TPE):\n\n{table_of(results)}\n\n"
        "The default's priors were chosen from these very measurements; in the second row, those\n"
        "for a model are derived from the other models alone.\n"
    )
    print(text)
    if given.out is not None:
        given.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
