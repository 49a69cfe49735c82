"""No garbage is collected while libraries are imported, and then it is as it was."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest
from tune_lora.search.importing import importing


def test_collecting_goes_on_afterwards() -> None:
    with importing():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_what_is_imported_is_not_looked_through_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What later blocks find may be garbage one day: only the first sets aside what there is."""
    frozen: list[int] = []
    monkeypatch.setattr(gc, "get_freeze_count", lambda: len(frozen))
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(1))
    with pytest.raises(ModuleNotFoundError), importing():
        raise ModuleNotFoundError
    assert not frozen
    for _ in range(2):
        with importing():
            pass
        assert len(frozen) == 1


def test_an_import_that_fails_changes_nothing() -> None:
    with pytest.raises(ModuleNotFoundError), importing():
        raise ModuleNotFoundError
    assert gc.isenabled()


def test_who_does_not_collect_is_left_alone() -> None:
    gc.disable()
    try:
        with importing():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_ray_can_be_started_before_anything_heavy_is_imported() -> None:
    code = "import sys, tune_lora.search.driver, tune_lora.search.ray_early; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = set(done.stdout.split())
    assert "ray" in found
    assert found.isdisjoint({"torch", "transformers", "peft", "datasets", "ray.tune"})
