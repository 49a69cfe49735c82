"""A trial takes over what another has, and goes on from there."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from tiny_trials import Outcome, go_on, make_config
from tune_lora.trainer import inherit
from tune_lora.trainer.base import BaseModel
from tune_lora.trainer.checkpoint import find
from tune_lora.trainer.config import TrialConfig
from tune_lora.trainer.data import TokenizedData
from tune_lora.trainer.folder import TrialFolder
from tune_lora.trainer.inherit import bequeath, come_into
from tune_lora.trainer.result import TrialResult, TrialState
from tune_lora.trainer.run import run_trial

STEPS, TAKEN = 10, 6
"""The horizon, and where the parent's state is taken over."""
RUNGS = (2, 4, 6, 8)
PARENT = make_config(
    {"target_modules": "all-linear", "lora_dropout": 0.1},
    number=1,
    rungs=RUNGS,
    learning_rate=2e-2,
    lr_scheduler_type="cosine",
    warmup_steps=3,
    weight_decay=0.1,
    max_steps=STEPS,
)
HEIR = make_config({"r": 2}, number=2, rungs=RUNGS, learning_rate=1e-4, max_steps=STEPS)
"""Of another rank, with other targets."""


class CutError(BaseException):
    """The end of the process, as far as the code can see."""


def going_over(parent: TrialResult, **train: Any) -> TrialConfig:
    """The parent's configuration, with ``train`` changed, for the heir."""
    config = TrialConfig.from_dict(parent.config)
    return replace(
        config,
        number=HEIR.number,
        train={**config.train, **train},
        lineage=({"step": parent.step, "trial": parent.number, "params": {}},),
    )


@dataclass
class Family:
    """Two interrupted trials: the parent after step 6, the heir after step 4."""

    base: BaseModel
    data: TokenizedData
    parent: TrialFolder
    heir: TrialFolder

    def taken(self, **train: Any) -> TrialConfig:
        """The heir's new configuration, once the parent's state lies ready."""
        result = bequeath(self.parent, self.heir, lambda found: going_over(found, **train))
        assert result is not None
        return TrialConfig.from_dict(json.loads(json.dumps(result.config)))

    def run(self, config: TrialConfig, folder: TrialFolder, stop_at: int = STEPS) -> Outcome:
        """Begin, or go on; a stop is like an interruption: the checkpoint stays."""

        def report(result: TrialResult) -> bool:
            return result.step < stop_at

        result = run_trial(config, self.base, self.data, report, folder, resume=True)
        return Outcome(result, folder)


@pytest.fixture(scope="module")
def parents(
    tmp_path_factory: pytest.TempPathFactory,
    new_base: Callable[..., BaseModel],
    tokenized: Callable[..., TokenizedData],
) -> Family:
    """Trained once; each test works on a copy."""
    root = tmp_path_factory.mktemp("family")
    family = Family(
        new_base(), tokenized(), TrialFolder(root / "parent"), TrialFolder(root / "heir")
    )
    family.run(PARENT, family.parent, TAKEN)
    family.run(HEIR, family.heir, 4)
    return family


@pytest.fixture(scope="module")
def whole(parents: Family) -> Outcome:
    """The parent without an interruption."""
    return parents.run(PARENT, TrialFolder(parents.parent.root.with_name("whole")))


def copied(parents: Family, root: Path) -> Family:
    for folder in (parents.parent, parents.heir):
        shutil.copytree(folder.root, root / folder.root.name)
    return replace(parents, parent=TrialFolder(root / "parent"), heir=TrialFolder(root / "heir"))


@pytest.fixture
def family(parents: Family, tmp_path: Path) -> Family:
    return copied(parents, tmp_path)


def losses(result: TrialResult) -> dict[int, float]:
    return {e.step: e.eval_loss for e in result.evaluations}


def rates(outcome: Outcome) -> dict[int, float]:
    """The learning rate of each step."""
    return {row["step"]: row["learning_rate"] for row in outcome.rows("learning_rate")}


def factor(step: int) -> float:
    """The cosine schedule's for a step from 1, after linear warm-up over 3 steps."""
    done = step - 1
    return done / 3 if done < 3 else 0.5 * (1 + math.cos(math.pi * (done - 3) / (STEPS - 3)))


def test_unchanged_the_heir_goes_on_as_the_parent_would(family: Family, whole: Outcome) -> None:
    config = family.taken()
    heir = family.run(config, family.heir)
    assert heir.result.state is TrialState.COMPLETE, heir.result.error
    assert heir.result.number == HEIR.number
    assert losses(heir.result) == pytest.approx(losses(whole.result), rel=1e-6)
    assert len(set(losses(whole.result).values())) == 5
    assert [row["loss"] for row in heir.rows("loss")] == pytest.approx(
        [row["loss"] for row in whole.rows("loss")], rel=1e-6
    )
    assert heir.result.tokens == whole.result.tokens
    assert heir.result.best_step == whole.result.best_step
    kept = {path.name for path in family.heir.root.iterdir()}
    assert kept == {"adapter", "metrics.jsonl"}


def test_its_adapter_is_the_parents_kind(family: Family) -> None:
    heir = family.run(family.taken(), family.heir)
    kept = json.loads((family.heir.adapter / "adapter_config.json").read_text("utf-8"))
    assert kept["r"] == PARENT.lora["r"] != HEIR.lora["r"]
    assert any("down_proj" in name for name in kept["target_modules"])
    assert heir.result.trainable_parameters == _checkpoint(family.parent).trainable_parameters


@pytest.mark.parametrize("scale", [0.8, 1.2, 50.0])
def test_a_changed_learning_rate_rides_the_same_schedule(
    family: Family, whole: Outcome, scale: float
) -> None:
    rate = 2e-2 * scale
    heir = family.run(family.taken(learning_rate=rate), family.heir)
    wanted = {s: (2e-2 if s <= TAKEN else rate) * factor(s) for s in range(1, STEPS + 1)}
    assert rates(heir) == pytest.approx(wanted, rel=1e-9)
    assert rates(whole) == pytest.approx({s: 2e-2 * factor(s) for s in wanted}, rel=1e-9)
    until, after = losses(heir.result), losses(whole.result)
    assert [until[s] for s in (2, 4, 6)] == [after[s] for s in (2, 4, 6)]
    assert abs(until[8] - after[8]) > 1e-5


def test_a_changed_rate_is_what_the_optimizer_steps_with(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taken from the optimizer itself, with what else is changed."""
    import torch

    seen: list[dict[str, Any]] = []
    step = torch.optim.AdamW.step

    def watched(self: Any, *args: Any, **options: Any) -> Any:
        seen.append({k: v for k, v in self.param_groups[0].items() if k != "params"})
        return step(self, *args, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    changes = {"learning_rate": 1e-3, "weight_decay": 0.03, "adam_beta1": 0.8, "adam_epsilon": 1e-6}
    config = family.taken(**changes)
    family.run(config, family.heir, stop_at=8)
    # Interrupted, it goes on with them.
    family.run(config, family.heir)
    wanted = [1e-3 * factor(s) for s in range(TAKEN + 1, STEPS + 1)]
    assert [group["lr"] for group in seen] == pytest.approx(wanted, rel=1e-9)
    assert {group["weight_decay"] for group in seen} == {0.03}
    assert {group["betas"] for group in seen} == {(0.8, 0.999)}
    assert {group["eps"] for group in seen} == {1e-6}


def test_an_heir_of_an_heir(family: Family, tmp_path: Path) -> None:
    first = family.taken(learning_rate=1e-2)
    family.run(first, family.heir, stop_at=8)
    third = TrialFolder(tmp_path / "third")

    def make(found: TrialResult) -> TrialConfig:
        before = TrialConfig.from_dict(found.config)
        link = {"step": found.step, "trial": found.number, "params": {}}
        train = {**before.train, "learning_rate": 5e-3}
        return replace(before, number=3, train=train, lineage=(*before.lineage, link))

    result = bequeath(family.heir, third, make)
    assert result is not None
    last = family.run(TrialConfig.from_dict(result.config), third)
    assert [(link["trial"], link["step"]) for link in last.result.config["lineage"]] == [
        (1, 6),
        (2, 8),
    ]
    steps = {s: 2e-2 if s <= 6 else 1e-2 if s <= 8 else 5e-3 for s in range(1, STEPS + 1)}
    wanted = {s: rate * factor(s) for s, rate in steps.items()}
    assert rates(last) == pytest.approx(wanted, rel=1e-9)


@contextmanager
def cut_off(patch: pytest.MonkeyPatch, move: int, torn: int) -> Iterator[None]:
    """The process ends at its n-th change of a name on disk, or after ``torn`` files of a removal.

    Until a name changes, nothing that is written can be seen by another process.
    """
    count = 0

    def counted(act: Callable[..., Any], half: Callable[[Path], None] | None = None) -> Any:
        def change(path: Path, *args: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count == move:
                if half is not None:
                    half(Path(path))
                raise CutError
            return act(path, *args, **options)

        return change

    def tear(folder: Path) -> None:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        for file in files[:torn]:
            file.unlink()

    with patch.context() as patched:
        patched.setattr(Path, "rename", counted(Path.rename))
        patched.setattr(Path, "replace", counted(Path.replace))
        patched.setattr(shutil, "rmtree", counted(shutil.rmtree, tear))
        yield


def killed(family: Family, monkeypatch: pytest.MonkeyPatch, move: int, torn: int) -> str:
    """Who was killed at this move, if it came to it; then the heir is taken up again."""
    config, who = HEIR, "the driver"
    try:
        with cut_off(monkeypatch, move, torn):
            # Only once all is ready is the study told, and so the next worker.
            config, who = family.taken(learning_rate=1e-2), "the worker"
            come_into(family.heir, config)
            who = "nobody"
    except CutError:
        pass
    come_into(family.heir, config)
    return who


@pytest.mark.parametrize("torn", [1, 5])
def test_killed_between_any_two_moves(
    parents: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torn: int
) -> None:
    """The heir goes on as it was, or with all that it takes over."""
    seen = []
    for move in itertools.count(1):
        family = copied(parents, tmp_path / str(move))
        who = killed(family, monkeypatch, move, torn)
        kept = _checkpoint(family.heir)
        if who == "the driver":
            assert losses(kept) == losses(_checkpoint(parents.heir))
            assert _adapter(family.heir) == _adapter(parents.heir)
        else:
            assert losses(kept) == losses(_checkpoint(parents.parent))
            assert kept.config["train"]["learning_rate"] == 1e-2
            assert _adapter(family.heir) == _adapter(parents.parent)
        assert not family.heir.inheritance.exists()
        last = json.loads(family.heir.metrics.read_text("utf-8").splitlines()[-1])
        assert last["step"] == kept.step
        seen.append(who)
        if who == "nobody":
            break
    assert min(seen.count("the driver"), seen.count("the worker")) > 5


def _checkpoint(folder: TrialFolder) -> TrialResult:
    found = find(folder.checkpoint)
    assert found is not None
    return found.result


def _adapter(folder: TrialFolder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.adapter.iterdir()}


def _adapter_rank(folder: TrialFolder) -> int:
    config = json.loads((folder.adapter / "adapter_config.json").read_text("utf-8"))
    return int(config["r"])


def test_what_is_meant_for_another_configuration_is_discarded(
    family: Family, whole: Outcome
) -> None:
    family.taken(learning_rate=1e-2)
    heir = family.run(HEIR, family.heir)
    assert heir.result.state is TrialState.COMPLETE
    assert not heir.result.config["lineage"]
    assert _adapter_rank(family.heir) == HEIR.lora["r"]
    assert losses(heir.result) != losses(whole.result)
    assert not family.heir.inheritance.exists()


def test_fewer_rows_a_forward_pass_are_no_other_configuration(family: Family) -> None:
    """A search that is resumed may know by then that memory is short."""
    config = replace(family.taken(), micro_batch=2)
    heir = family.run(config, family.heir)
    assert heir.result.step == STEPS
    assert heir.result.micro_batch == 2
    assert [row["step"] for row in heir.rows("loss")] == list(range(1, STEPS + 1))
    assert losses(heir.result)[TAKEN] == losses(_checkpoint(family.parent))[TAKEN]


@pytest.mark.parametrize("damage", ["gone", "torn", "none"])
def test_a_parent_without_a_whole_checkpoint_leaves_nothing(family: Family, damage: str) -> None:
    if damage == "gone":
        shutil.rmtree(family.parent.checkpoint)
    elif damage == "torn":
        (family.parent.checkpoint / "optimizer.pt").write_bytes(b"torn")
    else:
        family.parent = TrialFolder(family.parent.root.with_name("nobody"))
    found = bequeath(family.parent, family.heir, going_over)
    assert found is None
    assert not family.heir.inheritance.exists()
    before = losses(_checkpoint(family.heir))
    after = losses(family.run(HEIR, family.heir).result)
    assert {step: after[step] for step in before} == before


def test_of_one_that_is_about_to_take_over_itself_nothing_is_taken(
    family: Family, tmp_path: Path
) -> None:
    """Its checkpoint is still the bad one that it gives up."""
    config = family.taken()
    third = TrialFolder(tmp_path / "third")
    assert bequeath(family.heir, third, going_over) is None
    come_into(family.heir, config)
    taken = bequeath(family.heir, third, going_over)
    assert taken is not None
    assert losses(taken) == losses(_checkpoint(family.parent))


def test_an_adapter_that_is_newer_than_the_checkpoint_is_not_taken(family: Family) -> None:
    """The parent is between its best evaluation so far and the checkpoint after it."""
    early = TrialFolder(family.parent.root.with_name("early"))
    family.run(PARENT, early, stop_at=4)
    for parent, best in ((early, True), (family.parent, False)):
        found = _checkpoint(parent)
        assert (found.best_step == found.step) is best
        rank, weights = _adapter_rank(parent), _adapter(parent)
        (parent.adapter / "step.json").write_text("8", encoding="utf-8")
        (parent.adapter / "adapter_model.safetensors").unlink()
        (parent.adapter / "adapter_model.safetensors").write_bytes(b"newer")
        taken = bequeath(parent, family.heir, going_over)
        # The checkpoint's own weights are of its step; the best ones before are gone.
        assert (taken is not None) is best
        if taken is not None:
            come_into(family.heir, TrialConfig.from_dict(taken.config))
            assert _adapter(family.heir).keys() == weights.keys()
            name = "adapter_model.safetensors"
            assert _adapter(family.heir)[name] == weights[name]
            assert _adapter_rank(family.heir) == rank


def test_the_parents_later_checkpoints_leave_the_heirs_alone(family: Family) -> None:
    config = family.taken()
    ready = TrialFolder(family.heir.inheritance)
    weights = ready.checkpoint / "adapter_model.safetensors"
    assert weights.samefile(family.parent.checkpoint / weights.name)
    family.run(PARENT, family.parent, stop_at=8)
    assert _checkpoint(family.parent).step == 8
    assert _checkpoint(ready).step == TAKEN
    come_into(family.heir, config)
    family.run(PARENT, family.parent)
    assert not family.parent.checkpoint.exists()
    assert _checkpoint(family.heir).step == TAKEN
    before = {p.name: p.read_bytes() for p in family.heir.adapter.iterdir()}
    family.run(config, family.heir, stop_at=8)
    assert _checkpoint(family.heir).step == 8
    assert before.keys() == {p.name for p in family.heir.adapter.iterdir()}


def test_the_parent_does_not_notice(family: Family, whole: Outcome) -> None:
    """Not even when the heir writes where the two share files."""
    family.run(family.taken(learning_rate=0.5), family.heir)
    parent = family.run(PARENT, family.parent)
    assert losses(parent.result) == pytest.approx(losses(whole.result), rel=1e-6)
    assert parent.result.number == PARENT.number


def test_nothing_is_taken_over_by_a_trial_that_starts_afresh(family: Family) -> None:
    config = family.taken()
    result = run_trial(config, family.base, family.data, go_on, family.heir)
    assert result.state is TrialState.COMPLETE
    assert not family.heir.inheritance.exists()


def test_without_hard_links_files_are_copied(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no hard links here")

    monkeypatch.setattr(inherit.os, "link", refuse)
    come_into(family.heir, family.taken())
    assert losses(_checkpoint(family.heir)) == losses(_checkpoint(family.parent))
