"""How a search computes with NF4 weights: settled once, for every worker and every resume."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from tune_lora.search import driver, settle
from tune_lora.search.export import export_trial
from tune_lora.search.resources import Allocation
from tune_lora.search.settle import settle_unpacking
from tune_lora.spaces import Space, SpaceError
from tune_lora.trainer.base import BaseSpec, meta_model
from tune_lora.trainer.export import Forms, Recipe
from tune_lora.trainer.folder import RunFolder, write_json
from tune_lora.trainer.nf4 import unpacked_bytes
from tune_lora.trainer.unpacking import PROCESS

SpaceOf = Callable[..., Space]
NF4 = "model.quantization=nf4"
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="goes by the CPU's memory")


def _settle(space: Space, run: RunFolder, workers: int = 1) -> tuple[str, str | None]:
    spec = BaseSpec.of(space.model)
    found, reason = settle_unpacking(space, spec, meta_model(spec), Allocation(workers, 1, 0), run)
    return found.quantization_compute, reason


def _free(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(settle, "free_here", lambda device: size)


def test_a_base_that_is_not_quantized_needs_no_word(space_of: SpaceOf, run: RunFolder) -> None:
    assert _settle(space_of(), run) == ("auto", None)


def test_the_workers_share_the_memory(
    space_of: SpaceOf, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = space_of(NF4)
    size = unpacked_bytes(meta_model(BaseSpec.of(space.model)), torch.float32.itemsize)
    _free(monkeypatch, 3 * (2 * size + PROCESS))
    assert _settle(space, run, workers=3)[0] == "dequantized"
    assert _settle(space, run, workers=4)[0] == "bitsandbytes"


@pytest.mark.parametrize("asked", ["dequantized", "bitsandbytes"])
def test_what_the_space_says_is_done(
    space_of: SpaceOf, run: RunFolder, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    _free(monkeypatch, 0 if asked == "dequantized" else 2**40)
    compute, reason = _settle(space_of(NF4, f"model.quantization_compute={asked}"), run)
    assert compute == asked
    assert reason is not None
    assert reason.endswith("as model.quantization_compute says")


REWRITING: list[dict[str, Any]] = [
    {"init_lora_weights": "olora"},
    {"init_lora_weights": {"choice": [True, "pissa_niter_4"]}},
    {"use_dora": {"choice": [False, {"value": True, "with": {"lora.init_lora_weights": "pissa"}}]}},
]


@pytest.mark.parametrize("lora", REWRITING)
def test_a_base_that_trials_rewrite_stays_packed(
    space_of: SpaceOf, run: RunFolder, monkeypatch: pytest.MonkeyPatch, lora: dict[str, Any]
) -> None:
    _free(monkeypatch, 2**40)
    compute, reason = _settle(space_of(NF4, lora=lora), run)
    assert compute == "bitsandbytes"
    assert reason is not None
    assert "init_lora_weights" in reason
    with pytest.raises(SpaceError) as caught:
        _settle(space_of(NF4, "model.quantization_compute=dequantized", lora=lora), run)
    (fault,) = caught.value.faults
    assert (fault.path, fault.value) == ("model.quantization_compute", "dequantized")
    assert "write auto or bitsandbytes" in fault.rule


@pytest.mark.parametrize("init", ["true", "gaussian", "orthogonal"])
def test_an_init_of_the_adapter_alone_does_not_matter(
    space_of: SpaceOf, run: RunFolder, monkeypatch: pytest.MonkeyPatch, init: str
) -> None:
    _free(monkeypatch, 2**40)
    assert _settle(space_of(NF4, f"lora.init_lora_weights={init}"), run)[0] == "dequantized"


@pytest.mark.parametrize("begun", ["dequantized", "bitsandbytes"])
def test_a_resumed_run_goes_on_as_it_began(
    space_of: SpaceOf, run: RunFolder, monkeypatch: pytest.MonkeyPatch, begun: str
) -> None:
    write_json(run.about, {"model": {"quantization_compute": begun}})
    _free(monkeypatch, 0 if begun == "dequantized" else 2**40)
    compute, reason = _settle(space_of(NF4), run)
    assert compute == begun
    assert reason is not None
    assert reason.endswith("as the run was begun")


def test_a_search_says_and_keeps_what_was_settled(
    space_of: SpaceOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def search(trials: int, run: RunFolder) -> str:
        shown = io.StringIO()
        space = space_of(NF4, f"search.trials={trials}")
        driver.run_search(space, run, Console(file=shown, width=200), local=True)
        return shown.getvalue()

    _free(monkeypatch, 0)
    run = driver.new_run(space_of(NF4, "search.trials=1"), tmp_path / "run")
    assert "nf4:    weights dequantized at each use: " in search(1, run)
    assert run.read_about()["model"]["quantization_compute"] == "bitsandbytes"
    _free(monkeypatch, 2**40)
    again = search(2, driver.resumed_run(space_of(NF4, "search.trials=2"), run.root))
    assert "nf4:    weights dequantized at each use, as the run was begun" in again
    assert run.read_about()["model"]["quantization_compute"] == "bitsandbytes"

    exported = export_trial(run, tmp_path / "out", None, Forms())
    assert exported.scores.reloaded == pytest.approx(exported.row.eval_loss, rel=2e-6)
    assert Recipe.read(tmp_path / "out").model.quantization_compute == "bitsandbytes"
