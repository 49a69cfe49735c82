"""``export`` and ``generate`` on a run that a local search made."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tiny_models import save_tiny
from tune_lora.search.driver import new_run, run_search
from tune_lora.spaces import load_space
from tune_lora.trainer.errors import TrialError
from tune_lora.trainer.folder import RunFolder
from tune_lora.trainer.result import TrialResult, TrialState

Tool = Callable[..., Any]
SPACE = """
model: {{name: {model}, quantization: none, dtype: fp32}}
data: {{train: {pairs}, max_length: 128}}
lora: {{r: {{choice: [2, 4]}}, target_modules: all-linear}}
train: {{learning_rate: {{log_uniform: [1.0e-2, 1.0e-1]}}, max_steps: 6,
        per_device_train_batch_size: 4, gradient_accumulation_steps: 1,
        gradient_checkpointing: false, optim: adamw_torch}}
search: {{trials: 4, keep_adapters: 2, scheduler: none}}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, pairs: Path) -> RunFolder:
    """A finished search of four trials, of which the last is then said to have failed."""
    folder = tmp_path_factory.mktemp("export")
    path = folder / "tiny.yaml"
    path.write_text(SPACE.format(model=save_tiny(folder / "llama"), pairs=pairs), encoding="utf-8")
    space = load_space(path)
    made = new_run(space, folder / "run")
    run_search(space, made, Console(file=io.StringIO()), local=True)
    worst = ranked(made)[-1]
    error = (
        'Traceback (most recent call last):\n  File "a.py", line 1\nRuntimeError: no such kernel'
    )
    failed = replace(worst, state=TrialState.FAILED, score=None, error=error)
    made.trial(worst.number).write_result(failed)
    return made


def ranked(run: RunFolder) -> list[TrialResult]:
    return sorted((r for r in run.results() if r.score is not None), key=lambda r: r.score or 0)


def shown_loss(out: str, line: str) -> float:
    found = re.search(rf"^  {line} +eval_loss (\d+\.\d+)", out, re.MULTILINE)
    assert found is not None, out
    return float(found[1])


def test_the_best_is_exported_and_scores_as_before(
    tool: Tool, run: RunFolder, tmp_path: Path
) -> None:
    best = ranked(run)[0]
    code, out, err = tool("export", run.root, "--to", tmp_path / "best")
    assert code == 0, err
    assert out.startswith(f"{best.name} (rank 1, step {best.best_step}) is in {tmp_path / 'best'}")
    assert shown_loss(out, "in the search") == pytest.approx(best.score, abs=1e-4)
    assert shown_loss(out, "loaded again") == pytest.approx(best.score, abs=1e-3)
    assert "merged" not in out
    assert not (tmp_path / "best" / "merged").exists()
    assert best.name in (tmp_path / "best" / "README.md").read_text(encoding="utf-8")


def test_another_trial_merged_and_asked(tool: Tool, run: RunFolder, tmp_path: Path) -> None:
    second = ranked(run)[1]
    to = tmp_path / "second"
    code, out, err = tool("export", run.root, "--to", to, "--trial", second.number, "--merge")
    assert code == 0, err
    assert out.startswith(f"{second.name} (rank 2")
    assert shown_loss(out, "merged") == pytest.approx(second.score, abs=1e-3)
    config = json.loads((to / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["r"] == second.config["lora"]["r"]

    # Greedy answers of adapter and merged model are of the same weights, so the same.
    question = ("Turn this into JSON: 3 apples", "--max-new-tokens", 8)
    adapter = tool("generate", to, *question)
    merged = tool("generate", to / "merged", *question)
    assert (adapter.code, merged.code) == (0, 0)
    assert adapter.out.strip()
    assert adapter.out == merged.out
    both = tool("generate", to, *question, "--compare").out
    assert adapter.out.strip() in both
    assert "┃ base model" in both
    drawn = [
        tool("generate", to, *question, "--temperature", 5, "--seed", seed).out
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


def test_what_cannot_be_exported_says_why_and_what_to_do(
    tool: Tool, run: RunFolder, tmp_path: Path
) -> None:
    by_state = {r.state: r.number for r in run.results()}
    kept = ", ".join(str(r.number) for r in ranked(run)[:2])
    dropped = ranked(run)[2].number
    cases = {
        9: "has no trial 9; there are 0, 1, 2, 3",
        by_state[TrialState.FAILED]: "is FAILED: RuntimeError: no such kernel; export one that",
        dropped: f"(search.keep_adapters); kept are those of trials {kept}",
    }
    for number, message in cases.items():
        to = tmp_path / str(number)
        code, out, err = tool("export", run.root, "--to", to, "--trial", number)
        assert (code, out) == (1, "")
        assert len(err.splitlines()) == 1
        assert err.startswith("error: ")
        assert message in err
        assert not to.exists()


def test_a_trial_that_diverged_is_refused(tool: Tool, run: RunFolder, tmp_path: Path) -> None:
    best = ranked(run)[0]
    try:
        run.trial(best.number).write_result(replace(best, state=TrialState.DIVERGED))
        code, out, err = tool("export", run.root, "--to", tmp_path / "out", "--trial", best.number)
        other = tool("export", run.root, "--to", tmp_path / "other")
    finally:
        run.trial(best.number).write_result(best)
    assert (code, out) == (1, "")
    assert "is DIVERGED: its loss became NaN or infinite" in err
    assert not (tmp_path / "out").exists()
    assert other.out.startswith(f"{ranked(run)[1].name} (rank 1")


def test_every_form_is_scored_against_the_search(
    tool: Tool, run: RunFolder, tmp_path: Path
) -> None:
    best, to = ranked(run)[0], tmp_path / "all"
    code, out, err = tool("export", run.root, "--merge", "--quantize", "--to", to, "--gguf")
    assert code == 0, err
    assert "WARNING" not in err
    lines = {line[2:17].strip(): line for line in out.splitlines() if "difference" in line}
    assert list(lines) == ["loaded again", "merged", "merged-nf4", "gguf"]
    for name, line in lines.items():
        off = float(line.split("difference ")[1].split()[0])
        assert shown_loss(out, name) == pytest.approx(best.score + off, abs=1e-4)
    assert lines["merged-nf4"].endswith(f"({to / 'merged-nf4'})")
    assert lines["gguf"].endswith(f"({to / 'model-f16.gguf'})")
    card = (to / "README.md").read_text(encoding="utf-8")
    assert "| merged-nf4, scored again |" in card
    assert "| model-f16.gguf, scored again |" in card
    assert (to / "model-f16.gguf").is_file()


@pytest.mark.parametrize(
    ("arguments", "kind"), [(("--gguf", "q8_0", "--trial"), "q8_0"), (("--trial",), None)]
)
def test_type_of_the_gguf_file(
    tool: Tool, run: RunFolder, monkeypatch: pytest.MonkeyPatch, arguments: Any, kind: str | None
) -> None:
    seen: list[object] = []

    def note(run: object, to: object, trial: object, forms: Any, repo: object, **_: Any) -> None:
        seen.append((trial, forms.gguf))
        raise TrialError("far enough")

    monkeypatch.setattr("tune_lora.search.export.export_trial", note)
    tool("export", run.root, "--to", "x", *arguments, 1)
    assert seen == [(1, kind)]
    code, _, err = tool("export", run.root, "--to", "x", "--gguf", "q4_k")
    assert code == 2
    assert "'q4_k' is not one of 'f16', 'f32', 'q8_0'" in err


def test_an_adapter_off_its_score_is_called_out(tool: Tool, run: RunFolder, tmp_path: Path) -> None:
    best = ranked(run)[0]
    try:
        lower = [replace(e, eval_loss=e.eval_loss - 0.02) for e in best.evaluations]
        told = replace(best, score=best.score - 0.02, evaluations=tuple(lower))
        run.trial(best.number).write_result(told)
        code, out, err = tool("export", run.root, "--to", tmp_path / "out", "--merge")
    finally:
        run.trial(best.number).write_result(best)
    assert code == 0
    assert "WARNING: Loaded again, the adapter scores" in err
    assert err.endswith("this is not what the search ranked.\n")
    assert "+0.0200" in out
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "this is not what the search ranked." in card


class Hub:
    """``HfApi`` without a hub; what it was asked for, in order."""

    def __init__(self, token: str) -> None:
        self.token = token

    def whoami(self) -> dict[str, Any]:
        asked.append("whoami")
        return {"name": "me"}

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> str:
        asked.append(("create", repo_id, private, exist_ok))
        return f"https://hub.test/{repo_id}"

    def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> None:
        asked.append(("upload", repo_id, sorted(path.name for path in folder_path.iterdir())))


asked: list[Any] = []
TOKEN = "hf_NobodyMaySeeThis"


def test_push_asks_first_and_uploads_last(
    tool: Tool, run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub
    from tune_lora.search import export

    asked.clear()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    work = export.export_adapter

    def noted(*arguments: Any, **options: Any) -> Any:
        asked.append("work")
        return work(*arguments, **options)

    monkeypatch.setattr(export, "export_adapter", noted)
    to = tmp_path / "out"
    code, out, err = tool("-v", "export", run.root, "--to", to, "--push", "best", "--private")
    assert code == 0
    files = sorted(path.name for path in to.iterdir())
    assert asked == [
        "whoami",
        "work",
        ("create", "me/best", True, True),
        ("upload", "me/best", files),
    ]
    assert "Pushed to https://hub.test/me/best" in out
    # Others would look for the base where this machine has it.
    assert "others cannot load it from there" in out
    card = (to / "README.md").read_text(encoding="utf-8")
    assert 'PeftModel.from_pretrained(base, "me/best")' in card
    written = b"".join(path.read_bytes() for path in to.rglob("*") if path.is_file())
    assert TOKEN.encode() not in written
    assert TOKEN not in out + err


def test_an_unreachable_hub_costs_no_work(
    tool: Tool, run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    code, out, err = tool("export", run.root, "--to", tmp_path / "out", "--push", "me/best")
    assert (code, out) == (1, "")
    assert err.startswith("error: --push me/best: the hub cannot be reached: ")
    assert TOKEN not in err
    assert not (tmp_path / "out").exists()
    code, _, err = tool("export", run.root, "--to", tmp_path / "out", "--private")
    assert code == 2
    assert "goes with --push REPO_ID" in err


def test_a_folder_in_use_is_left_alone(tool: Tool, run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    code, _, err = tool("export", run.root, "--to", tmp_path)
    assert code == 1
    assert "is not empty; export to another folder (--to)" in err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_generate_needs_an_adapter(tool: Tool, tmp_path: Path) -> None:
    code, _, err = tool("generate", tmp_path, "Hello")
    assert code == 1
    assert err == f"error: {tmp_path}: holds no adapter (it has no adapter_config.json)\n"
