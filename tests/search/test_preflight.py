"""What is found out before any trial, and before a weight is loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tune_lora.search.preflight import preflight, target_choices
from tune_lora.spaces import Space, SpaceError

SpaceOf = Callable[..., Space]


@pytest.fixture
def bare(tmp_path: Path, tiny: Callable[..., Path]) -> str:
    """A model folder without weights: whatever works with it has loaded none."""
    folder = tmp_path / "bare"
    shutil.copytree(tiny("llama"), folder)
    (folder / "model.safetensors").unlink()
    return str(folder)


def choice(*options: object) -> dict[str, object]:
    return {"choice": list(options)}


CONDITIONAL = {
    "target_modules": choice("qv", ["o_proj"]),
    "use_dora": choice(
        {"value": False, "with": {"lora.target_modules": "mlp"}},
        {"value": True, "with": {"lora.target_modules": choice("attention", ["up_proj"])}},
    ),
}


def test_target_choices_are_all_that_a_trial_can_come_to(space_of: SpaceOf) -> None:
    found = target_choices(space_of(lora=CONDITIONAL))
    values = [v if isinstance(v, str) else list(v) for v in found]
    assert sorted(map(str, values)) == sorted(
        map(str, ["qv", ["o_proj"], "attention", ["up_proj"], "mlp", "qv"])
    )


@pytest.mark.parametrize(("baseline", "found"), [("true", ["mlp", "qv"]), ("false", ["mlp"])])
def test_the_baselines_targets_count(space_of: SpaceOf, baseline: str, found: list[str]) -> None:
    space = space_of("lora.target_modules=mlp", f"search.baseline={baseline}")
    assert target_choices(space) == found


def test_it_needs_no_weights(space_of: SpaceOf, bare: str) -> None:
    ready = preflight(space_of(f"model.name={bare}"))
    assert ready.spec.source == bare
    assert [len(getattr(ready.data, s)) for s in ("train", "validation", "test")] == [32, 4, 4]


@pytest.mark.parametrize(
    "lora",
    [
        {"target_modules": ["q_prj"]},
        {"target_modules": choice("qv", ["q_prj"])},
        {"use_dora": choice(False, {"value": True, "with": {"lora.target_modules": ["q_prj"]}})},
        {
            "use_dora": choice(
                False,
                {"value": True, "with": {"lora.target_modules": choice("qv", ["q_prj"])}},
            )
        },
    ],
)
def test_a_target_that_the_model_lacks_is_named(
    space_of: SpaceOf, bare: str, lora: dict[str, object]
) -> None:
    with pytest.raises(SpaceError) as caught:
        preflight(space_of(f"model.name={bare}", lora=lora))
    (fault,) = caught.value.faults
    assert (fault.path, fault.value) == ("lora.target_modules", ["q_prj"])
    assert "q_proj" in fault.suggestions


def test_a_regular_expression_that_matches_nothing_is_named(space_of: SpaceOf, bare: str) -> None:
    with pytest.raises(SpaceError, match=r"matches no module of the model") as caught:
        preflight(space_of(f"model.name={bare}", lora={"target_modules": r".*\.nothing"}))
    assert caught.value.faults[0].path == "lora.target_modules"


def test_a_folder_that_is_no_model_is_named(space_of: SpaceOf, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SpaceError, match="no model folder") as caught:
        preflight(space_of(f"model.name={tmp_path / 'empty'}"))
    assert caught.value.faults[0].path == "model.name"


def test_a_model_of_another_task_is_named(space_of: SpaceOf, tiny: Callable[..., Path]) -> None:
    with pytest.raises(SpaceError) as caught:
        preflight(space_of(f"model.name={tiny('t5')}", "search.baseline=false"))
    assert caught.value.faults[0].path == "model.name"


@pytest.fixture
def reviews(tmp_path: Path) -> dict[str, object]:
    path = tmp_path / "reviews.jsonl"
    rows = [{"text": f"text {i}", "label": "abc"[i % 3]} for i in range(60)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {"train": str(path), "format": "classification"}


def test_labels_are_those_of_the_rows(space_of: SpaceOf, reviews: dict[str, object]) -> None:
    ready = preflight(space_of(architecture="bert", data=reviews, model={"num_labels": 3}))
    assert ready.spec.labels == ("a", "b", "c")


def test_another_number_of_labels_is_named(space_of: SpaceOf, reviews: dict[str, object]) -> None:
    with pytest.raises(SpaceError, match="3 classes: a, b, c") as caught:
        preflight(space_of(architecture="bert", data=reviews, model={"num_labels": 2}))
    assert [(f.path, f.value) for f in caught.value.faults] == [("model.num_labels", 2)]
