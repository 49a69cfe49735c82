"""The winner of a run, out of its folder: adapter, tokenizer, merged models, model card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..reports import CardFacts, CardScores, Leaderboard, Row, build, model_card
from ..spaces import ModelBlock, Space, load_space
from ..spaces.metrics import LOSS
from ..trainer.data import TokenizedData
from ..trainer.errors import TrialError
from ..trainer.export import Forms, Recipe, Rescore, export_adapter, sample_prompt
from ..trainer.folder import RunFolder, write_text
from ..trainer.foreign import ADAPTER_FILES, check_adapter
from ..trainer.gguf_write import gguf_name
from ..trainer.result import TrialState, trial_name


@dataclass(frozen=True)
class Exported:
    """What was exported.

    Attributes:
        row: the trial, as the leaderboard shows it.
        scores: losses of the exported files, and what they are held against.
        quantization: of the base during training.
        base: the base model, as others would load it.
    """

    row: Row
    scores: CardScores
    quantization: str
    base: str


def export_trial(
    run: RunFolder,
    target: Path,
    trial: int | None,
    forms: Forms,
    repo: str | None = None,
    *,
    trusted: bool = False,
) -> Exported:
    """Export a trial's adapter, by default the best one's; see ``export_adapter``.

    Args:
        run: of a search.
        target: a folder that does not exist, or is empty.
        trial: its number.
        forms: what to write besides the adapter.
        repo: hub id under which the card is to have it loaded; None for ``target``.
        trusted: whether the model's own code may run.

    Raises:
        TrialError: there is no such trial, it diverged or has no score, or its weights are gone;
            or see ``export_adapter``.
    """
    board = build(run)
    row = choose(board, trial)
    space = load_space(run.space)
    data = TokenizedData.load(run.data)
    recipe = Recipe(_model(space, board), space.data.template, data.labels, space.data.format)
    number = row.trial
    assert number is not None
    check_adapter(run.trial(number).adapter, only=ADAPTER_FILES)

    def finish(folder: Path, scores: Rescore) -> None:
        prompt = sample_prompt(folder, data, space.model.task, special=space.data.format == "chat")
        facts = replace(
            _facts(space, board, row, _scores(board, row, scores)),
            name=repo or target.name,
            on_hub=repo is not None,
            gguf="" if forms.gguf is None else gguf_name(forms.gguf),
            labels=data.labels,
            prompt=prompt,
        )
        write_text(folder / "README.md", model_card(facts))

    rescore = export_adapter(
        run.trial(number).adapter,
        target,
        recipe,
        data,
        batch_size=int(row.settings["per_device_eval_batch_size"]),
        forms=forms,
        trusted=trusted,
        finish=finish,
    )
    reference = str(board.about["model"]["reference"])
    return Exported(row, _scores(board, row, rescore), space.model.quantization, reference)


def _model(space: Space, board: Leaderboard) -> ModelBlock:
    """The space's model; one that had to be kept packed still has to be."""
    if board.about["model"]["quantization_compute"] != "bitsandbytes":
        return space.model
    return space.model.model_copy(update={"quantization_compute": "bitsandbytes"})


def choose(board: Leaderboard, trial: int | None) -> Row:
    """The row of trial number ``trial``, or the best one, checked to be exportable."""
    if trial is None:
        if board.best is None:
            raise TrialError(f"{board.name}: no trial has a score yet, so there is none to export")
        row = board.best
    else:
        found = [row for row in board.rows if row.trial == trial]
        if not found:
            there = sorted(row.trial for row in board.rows if row.trial is not None)
            numbers = ", ".join(map(str, there)) or "none"
            raise TrialError(f"{board.name}: has no trial {trial}; there are {numbers}")
        row = found[0]
    if not row.rankable:
        why = f": {row.error}" if row.error else ""
        raise TrialError(f"{row.name} is {row.state}{why}; export one that has a rank")
    if not row.has_adapter:
        kept = ", ".join(str(r.trial) for r in board.rows if r.has_adapter) or "none"
        raise TrialError(
            f"{row.name}: its weights were deleted when others came out ahead "
            f"(search.keep_adapters); kept are those of trials {kept}"
        )
    return row


def _scores(board: Leaderboard, row: Row, scores: Rescore) -> CardScores:
    assert row.eval_loss is not None
    return CardScores(
        eval_loss=row.eval_loss,
        step=row.best_step,
        horizon=row.horizon,
        reloaded=scores.adapter,
        merged=scores.merged,
        nf4=scores.nf4,
        gguf=scores.gguf,
        expected=None if row.confirmed is None else row.confirmed.mean,
        further=_further(board, row),
        base=None if board.base is None else board.base.eval_loss,
        default=None if board.default is None else board.default.eval_loss,
    )


def _further(
    board: Leaderboard, row: Row
) -> dict[str, tuple[float | None, float | None, float | None]]:
    """Metrics beyond the loss: of the trial, the base model and the default configuration."""
    names = [name for name in (board.metric, *board.further_metrics) if name != LOSS]
    base, default = board.base, board.default
    return {
        name: (
            row.value(name),
            None if base is None else base.value(name),
            None if default is None else default.value(name),
        )
        for name in names
    }


def _facts(space: Space, board: Leaderboard, row: Row, scores: CardScores) -> CardFacts:
    about = board.about
    lora, train = _split(space, row.settings)
    return CardFacts(
        name=row.name,
        base_model=str(about["model"]["reference"]),
        task=space.model.task,
        scores=scores,
        quantization=space.model.quantization,
        double_quant=space.model.double_quant,
        dtype=space.model.dtype,
        merged=scores.merged is not None,
        nf4=scores.nf4 is not None,
        lora=lora,
        train=train,
        data=about["data"],
        versions=about["versions"],
        search=_search(space, board, row),
    )


def _split(space: Space, settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    lora = {key: value for key, value in settings.items() if key in space.lora.values}
    return lora, {key: value for key, value in settings.items() if key not in lora}


def _search(space: Space, board: Leaderboard, row: Row) -> dict[str, Any]:
    ended = sum(1 for r in board.rows if r.trial is not None and r.state != TrialState.RUNNING)
    stopped = sum(1 for r in board.rows if r.state == TrialState.PRUNED)
    assert row.trial is not None
    return {
        "name": board.name,
        "model": space.model.name,
        "trial": trial_name(row.trial),
        "rank": row.rank,
        "trials": f"{ended}, of which {stopped} were stopped early",
        "sampler": space.search.sampler,
        "scheduler": "none" if space.search.scheduler is None else space.search.scheduler.word,
        "metric": board.metric,
        **({"objectives": ", ".join(board.objectives)} if board.objectives else {}),
        **({} if row.front is None else {"front": row.front}),
    }
