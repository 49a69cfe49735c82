"""Someone else's run folder: nothing in it is run, nothing is written or read outside of it."""

from __future__ import annotations

import json
import os
import pickle
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from cmaes import CMA
from plotly.offline import get_plotlyjs
from tune_lora.spaces import SpaceError
from tune_lora.trainer.base import BaseSpec
from tune_lora.trainer.errors import TrialError
from tune_lora.trainer.folder import RunFolder
from tune_lora.trainer.foreign import ADAPTER_FILES, check_adapter

SCRIPT = '<script>alert("owned")</script><img src=x onerror=alert(1)>'
ESCAPES = "\x1b[2J\x1b]0;owned\x07\x9b31m"
EVIL = SCRIPT + ESCAPES


class Bomb:
    """Unpickled, it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """What is there once some code of the folder has run."""
    return tmp_path / "owned"


def result(trial: int = 0, **fields: Any) -> dict[str, Any]:
    lora = {"r": 8, "lora_alpha": 16, "target_modules": EVIL}
    return {
        "number": trial,
        "state": "COMPLETE",
        "config": {"lora": lora, "train": {"learning_rate": 0.1, "max_steps": 4}, "lineage": []},
        "score": 1.0,
        "best_step": 4,
        "step": 4,
        "evaluations": [{"step": 4, "eval_loss": 1.0, "seconds": 1.0}],
        "trainable_parameters": 10,
        "total_parameters": 100,
        "error": None,
        **fields,
    }


@pytest.fixture
def run(tmp_path: Path, mark: Path) -> RunFolder:
    """Hostile wherever text can stand."""
    folder = RunFolder(tmp_path / "run")
    for number in (0, 1, 2):
        (folder.trial(number).root).mkdir(parents=True)
    write(folder.trial(0).result, result(0))
    write(folder.trial(1).result, result(1, state="FAILED", score=None, error=EVIL, best_step=None))
    write(folder.trial(2).result, result(2, score=1e99, seconds=1e99))
    write(folder.trial(0).metrics, {"step": EVIL, "loss": "NaN"})
    about = {
        "space": EVIL,
        "command": EVIL,
        "started": EVIL,
        "model": {"name": EVIL, "trust_remote_code": True, "quantization_compute": EVIL},
        "data": {"source": EVIL, "fingerprint": EVIL},
        "versions": {EVIL: EVIL},
    }
    write(folder.about, about)
    space = {"model": {"name": "m"}, "data": {"train": SCRIPT}}
    folder.space.write_text(yaml.safe_dump(space), encoding="utf-8")
    write(folder.leaderboard("json"), {"rows": EVIL})
    folder.ray.mkdir()
    (folder.ray / "tuner.pkl").write_bytes(pickle.dumps(Bomb(mark)))
    adapter = folder.trial(0).adapter
    adapter.mkdir()
    (adapter / "adapter_model.bin").write_bytes(pickle.dumps(Bomb(mark)))
    write(adapter / "adapter_config.json", {"peft_type": "LORA", "r": 8})
    write(adapter / "step.json", 4)
    return folder


def write(path: Path, data: object) -> None:
    path.write_text(json.dumps(data), encoding="utf-8")


VERBS = [
    ["report", "RUN"],
    ["leaderboard", "RUN"],
    ["leaderboard", "RUN", "--format", "md"],
    ["leaderboard", "RUN", "--format", "csv"],
    ["leaderboard", "RUN", "--format", "json"],
    ["compare", "RUN", "RUN", "--html", "PAGE"],
    ["watch", "RUN"],
]


@pytest.fixture
def said(
    run: RunFolder,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., tuple[int, str]]:
    """What a verb prints, and its exit code; anything but an orderly end is an error."""
    from tune_lora import cli

    def ask(*arguments: str) -> tuple[int, str]:
        named = {"RUN": str(run.root), "PAGE": str(tmp_path / "page.html")}
        given = [named.get(argument, argument) for argument in arguments]
        monkeypatch.setattr("sys.argv", ["tune-lora", *given])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capfd.readouterr()
        return int(ended.value.code or 0), out + err

    return ask


def outside(run: RunFolder) -> set[Path]:
    return {path for path in run.root.parent.rglob("*") if not path.is_relative_to(run.root)}


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_text_is_shown_as_text(
    run: RunFolder, said: Callable[..., tuple[int, str]], verb: list[str], mark: Path
) -> None:
    before = outside(run)
    code, text = said(*verb)
    assert code == 0, text
    assert outside(run) - before <= {run.root.parent / "page.html"}
    assert not mark.exists()
    pages = [text] if "json" not in verb else []
    written = (run.report, run.root.parent / "page.html")
    # plotly's own code holds such characters.
    pages += [p.read_text("utf-8").replace(get_plotlyjs(), "") for p in written if p.exists()]
    for page in pages:
        assert not {"\x1b", "\x07", "\x9b"} & set(page)
    for page in pages[1:]:
        assert SCRIPT not in page
        assert "<img src=x" not in page


def test_model_code_that_was_run_is_said_in_report_and_leaderboard(
    run: RunFolder, said: Callable[..., tuple[int, str]]
) -> None:
    assert "was run (model.trust_remote_code)" in " ".join(said("leaderboard", "RUN")[1].split())
    said("report", "RUN")
    assert "was run (model.trust_remote_code)" in run.report.read_text("utf-8")


DAMAGE: dict[str, Any] = {
    "a metric that is another column": {
        "evaluations": [{"step": 4, "eval_loss": 1.0, "seconds": 1.0, "metrics": {"rank": 1.0}}]
    },
    "a metric too large to square": {
        "evaluations": [{"step": 4, "eval_loss": 1.0, "seconds": 1.0, "metrics": {"bleu": 1e200}}]
    },
    "a metric of test rows that is none": {"test": {"trial": 1.0}},
    "path for a number": {"number": "../../../etc"},
    "another trial's number": {"number": 7},
    "object for a score": {"score": {"a": 1}},
    "giant number": {"trainable_parameters": 10**400},
    "giant score": {"score": 1e300},
    "giant evaluation": {"evaluations": [{"step": 4, "eval_loss": 1e300, "seconds": 1.0}]},
    "list for a configuration": {"config": []},
    "text for evaluations": {"evaluations": EVIL},
    "unknown state": {"state": EVIL},
    "text in the lineage": {"config": {"lineage": [EVIL]}},
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("verb", [VERBS[0], VERBS[1], VERBS[5]], ids=" ".join)
def test_what_is_no_result_is_one_clear_error(
    run: RunFolder,
    said: Callable[..., tuple[int, str]],
    verb: list[str],
    damage: dict[str, Any],
    mark: Path,
) -> None:
    write(run.trial(0).result, result(0, **damage))
    code, text = said(*verb)
    assert code == 1
    assert "result.json: cannot be read" in text
    assert "Traceback" not in text
    assert not {"\x1b", "\x07", "\x9b"} & set(text)
    assert not mark.exists()


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_without_end_are_no_error(
    run: RunFolder, said: Callable[..., tuple[int, str]], text: str
) -> None:
    body = json.dumps(result(0, score="HERE", tokens_per_second="HERE", seconds=1.0))
    run.trial(0).result.write_text(body.replace('"HERE"', text), encoding="utf-8")
    for verb in VERBS:
        assert said(*verb)[0] == 0


@pytest.mark.parametrize("name", ["run.json", "base.json", "study.db", "space.yaml"])
@pytest.mark.parametrize(
    "content", ["[" * 10_000, '["x"]', '!!python/object/apply:os.mkdir ["MARK"]', '{"model": 3}']
)
def test_damaged_files_run_nothing(
    run: RunFolder,
    said: Callable[..., tuple[int, str]],
    mark: Path,
    name: str,
    content: str,
) -> None:
    (run.root / name).write_text(content.replace("MARK", str(mark)), encoding="utf-8")
    for verb in (VERBS[0], VERBS[1], VERBS[5], VERBS[6]):
        code, text = said(*verb)
        assert code in (0, 1, 2)
        assert "Traceback" not in text
    assert not mark.exists()


LINKS = ["study.db", "trials", "trials/0009", "trials/0000/adapter/notes", "data", "ray", "wandb"]


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("verb", [*VERBS, ["export", "RUN", "--to", "OUT"], ["dashboard", "RUN"]])
def test_links_to_elsewhere_are_refused(
    run: RunFolder, said: Callable[..., tuple[int, str]], tmp_path: Path, link: str, verb: list[str]
) -> None:
    private = tmp_path / "private"
    private.mkdir()
    sqlite3.connect(private / "other.db").execute("create table own (x)")
    place = run.root / link
    if place.exists():
        place.rename(tmp_path / "aside")
    place.symlink_to(private / "other.db" if link == "study.db" else private)
    before = {path: path.stat().st_mtime_ns for path in private.rglob("*")}
    code, text = said(*verb)
    assert code == 1
    assert "is a link" in text
    assert {path: path.stat().st_mtime_ns for path in private.rglob("*")} == before


def test_pickled_weights_are_not_exported(
    run: RunFolder, said: Callable[..., tuple[int, str]], mark: Path, tmp_path: Path
) -> None:
    with pytest.raises(TrialError, match="pickles are not loaded"):
        check_adapter(run.trial(0).adapter)
    (run.trial(0).adapter / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(TrialError, match=r"no trial writes there: adapter_model\.bin"):
        check_adapter(run.trial(0).adapter, only=ADAPTER_FILES)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            {"peft_type": "PROMPT_TUNING", "tokenizer_kwargs": {"a": True}},
            "no LoRA",
        ),
        ({"peft_type": "LORA", "auto_mapping": {"parent_library": "evil"}}, "auto_mapping"),
        ([], "no LoRA"),
    ],
)
def test_adapter_config_that_asks_for_code_is_refused(
    tmp_path: Path, config: object, said: str
) -> None:
    write(tmp_path / "adapter_config.json", config)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(TrialError, match=said):
        check_adapter(tmp_path)


def test_models_own_code_needs_the_users_word(tiny: Callable[..., Path], mark: Path) -> None:
    from tune_lora.spaces import ModelBlock

    block = ModelBlock(name=str(tiny()), trust_remote_code=True)
    with pytest.raises(SpaceError, match="say --trust-remote-code"):
        BaseSpec.of(block)
    assert BaseSpec.of(block, trusted=True).trust_remote_code


def test_confirming_needs_the_users_word(
    run: RunFolder, said: Callable[..., tuple[int, str]]
) -> None:
    space = {"model": {"name": "m", "trust_remote_code": True}, "data": {"train": "d"}}
    run.space.write_text(yaml.safe_dump(space), encoding="utf-8")
    code, text = said("confirm", "RUN", "--local")
    assert code == 2
    assert "model.trust_remote_code" in text
    assert "--trust-remote-code" in text


def test_state_of_cmaes_in_a_study_runs_nothing(mark: Path) -> None:
    import numpy as np
    from optuna.trial import FrozenTrial, create_trial
    from tune_lora.search.cmaes import SafeCmaEsSampler

    sampler = SafeCmaEsSampler()

    def kept(data: bytes) -> list[FrozenTrial]:
        attributes = sampler._split_optimizer_str(data.hex())
        return [create_trial(value=1.0, system_attrs=attributes)]

    assert sampler._restore_optimizer(kept(pickle.dumps(Bomb(mark)))) is None
    assert not mark.exists()
    known = CMA(mean=np.zeros(2), sigma=1.0)
    known.tell([(known.ask(), 1.0 * n) for n in range(known.population_size)])
    found = sampler._restore_optimizer(kept(pickle.dumps(known)))
    assert (found.generation, found._mean.tolist()) == (1, known._mean.tolist())
    assert sampler._restore_optimizer([create_trial(value=1.0)]) is None
