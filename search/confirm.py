"""Which trials are trained again on fresh seeds once a search has ended, and how.

The lowest of many noisy losses is lower than what the same configuration gives the next time: the
search's own minimum flatters. Fresh seeds do not.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from itertools import count, islice

from ..reports.noise import configuration
from ..reports.rows import Row
from ..spaces import ConfirmBlock, Space, load_space
from ..trainer.base import check_trust
from ..trainer.config import TrialConfig
from ..trainer.errors import TrialError
from ..trainer.folder import RunFolder
from ..trainer.result import TrialResult


def confirmed_space(
    run: RunFolder, top: int | None, seeds: int | None, *, trusted: bool = False
) -> Space:
    """The space of a search that has ended, with its best to be confirmed and no trial to come.

    Args:
        run: its folder.
        top: configurations; None for the space's own number, or the default.
        seeds: of each; None likewise.
        trusted: whether the model's own code may run; the folder alone cannot say so.

    Raises:
        SpaceError: the best of this search cannot be confirmed.
        TrialError: it has not ended, or no trial has a score.
    """
    results = list(run.results())
    open_ = [result.name for result in results if not result.state.finished]
    if open_:
        raise TrialError(
            f"{run.root}: {', '.join(open_)} have not ended; go on with the search first "
            "(tune-lora search SPACE --resume RUN)"
        )
    if not any(result.state.ranked and result.score is not None for result in results):
        raise TrialError(f"{run.root}: no trial has a score, so there is nothing to confirm")
    space = load_space(run.space)
    check_trust(space.model, trusted=trusted)
    known = space.search.confirm or ConfirmBlock()
    top, seeds = top or known.top, seeds or known.seeds
    wanted = f"search.confirm={{top: {top}, seeds: {seeds}}}"
    return load_space(run.space, [wanted, f"search.trials={len(results)}"])


def finalists(rows: Iterable[Row], top: int) -> tuple[int, ...]:
    """Numbers of the best trials with weights, no two of which differ in their seeds alone.

    Args:
        rows: of the leaderboard, best first.
        top: how many at most.
    """
    found: dict[str, int] = {}
    ranked = (row for row in rows if row.rankable and row.has_adapter)
    # Not as the rows stand: of a confirmation that was broken off, some have fresh seeds.
    for row in sorted(
        ranked, key=lambda row: (row.tier, row.merit, row.trainable_parameters, row.trial)
    ):
        assert row.trial is not None
        found.setdefault(configuration(row.settings), row.trial)
    return tuple(islice(found.values(), top))


def fresh_seeds(results: Collection[TrialResult], wanted: int) -> tuple[int, ...]:
    """The smallest seeds from 1 on that no trial of the search was trained with."""
    trains = [result.config["train"] for result in results]
    used = {train.get(key) for train in trains for key in ("seed", "data_seed")}
    return tuple(islice((seed for seed in count(1) if seed not in used), wanted))


def on_seed(result: TrialResult, seed: int) -> TrialConfig:
    """The trial's configuration with another seed of adapter, dropout and order of rows.

    It begins with the micro-batch for which there was memory.
    """
    config = TrialConfig.from_dict(result.config)
    seeds = {key: seed for key in ("seed", "data_seed") if config.train.get(key) is not None}
    train = {**config.train, **seeds}
    return replace(config, train=train, micro_batch=result.micro_batch or config.micro_batch)
