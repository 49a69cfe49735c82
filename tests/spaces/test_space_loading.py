"""Finding a space file, defaults, and overrides from the command line."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tune_lora.spaces import FloatRange, Space, SpaceError, dump_space, load_space

Load = Callable[..., Space]


def test_schema_defaults_hold_where_the_file_says_nothing(load: Load) -> None:
    space = load("")
    assert space.name == "mine"
    assert space.lora.values == {
        "r": 16,
        "lora_alpha": 32,
        "target_modules": "all-linear",
        "lora_dropout": 0.0,
    }
    assert space.train["warmup_steps"] == 0.03
    assert space.train.max_steps == 200
    assert space.search.trials == 16
    assert space.parameters() == ()


def test_command_line_wins_over_file_and_file_over_defaults(load: Load) -> None:
    text = "lora: {r: 4, lora_alpha: 8}\nsearch: {trials: 3}"
    space = load(text, "lora.r=64", "search.trials=5", "search.trials=7")
    assert (space.lora["r"], space.lora["lora_alpha"]) == (64, 8)
    assert space.search.trials == 7
    assert space.lora["lora_dropout"] == 0.0


def test_override_value_is_yaml(load: Load) -> None:
    space = load(
        "",
        "train.learning_rate={log_uniform: [1e-5, 1e-3]}",
        "data.train=other file.jsonl",
        "train.bf16=true",
        "search.time_limit_minutes=",
        "lora.target_modules=[a, b]",
    )
    assert space.train["learning_rate"] == FloatRange(1e-5, 1e-3, log=True)
    assert space.data.train == "other file.jsonl"
    assert space.train["bf16"] is True
    assert space.search.time_limit_minutes is None
    assert space.lora["target_modules"] == ["a", "b"]


def test_override_replaces_a_domain_whole(load: Load) -> None:
    assert load("lora: {r: {choice: [1, 2]}}", "lora.r=8").lora["r"] == 8


def test_override_makes_missing_mappings_and_goes_through_short_forms(load: Load) -> None:
    space = load(
        "search: {scheduler: asha}",
        "data.limit.train=5",
        "search.scheduler.asha.grace_steps=9",
        "tracking.wandb.project=p",
    )
    assert space.data.limit.train == 5
    assert space.search.scheduler is not None
    assert space.search.scheduler.grace_steps == 9
    assert space.tracking.wandb is not None
    assert space.tracking.wandb.project == "p"


def test_overrides_alone_fill_an_empty_file(load: Load) -> None:
    space = load("", "model.name=m", "data.train=d", whole=True)
    assert (space.model.name, space.data.train) == ("m", "d")


@pytest.mark.parametrize(
    ("given", "grace"),
    [("asha", None), ("{asha: }", None), ("{asha: {grace_steps: 5}}", 5)],
)
def test_scheduler_forms(load: Load, given: str, grace: int | None) -> None:
    scheduler = load(f"search: {{scheduler: {given}}}").search.scheduler
    assert scheduler is not None
    assert scheduler.grace_steps == grace


@pytest.mark.parametrize("given", ["none", "null", ""])
def test_no_scheduler(load: Load, given: str) -> None:
    assert load(f"search:\n  scheduler: {given}").search.scheduler is None


@pytest.mark.parametrize("given", ["", "tracking: none", "tracking:", "tracking: {}"])
def test_tracking_is_off_unless_asked_for(load: Load, given: str) -> None:
    space = load(given)
    assert space.tracking.chosen() == {}
    assert space.resolved()["tracking"] is None


@pytest.mark.parametrize(
    "given", ["wandb", "[wandb]", "{wandb: }", "{wandb: {}}", "{wandb: {mode: auto}}"]
)
def test_tracker_forms(load: Load, given: str) -> None:
    settings = {"project": "tune-lora", "entity": None, "mode": "auto", "adapter": True}
    assert load(f"tracking: {given}").tracking.chosen() == {"wandb": settings}


def test_several_trackers_at_once(load: Load) -> None:
    assert [*load("tracking: [mlflow, tensorboard]").tracking.chosen()] == ["tensorboard", "mlflow"]
    chosen = load("tracking: {tensorboard: , mlflow: {experiment: e}}").tracking.chosen()
    assert chosen["tensorboard"] == {}
    assert chosen["mlflow"]["experiment"] == "e"
    assert [*load("", "tracking=[wandb, mlflow]").tracking.chosen()] == ["wandb", "mlflow"]


def test_new_name_of_a_field_displaces_the_default_of_its_old_name(load: Load) -> None:
    assert load("").train["gradient_checkpointing"] is True
    space = load("train: {activation_checkpointing: false}")
    assert "gradient_checkpointing" not in space.train


def test_bare_name_is_a_packaged_space_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_space("llama").name == "llama"
    (tmp_path / "llama").mkdir()  # such as a run folder of that name
    assert load_space("llama").name == "llama"


def test_file_in_the_working_folder_wins_over_a_packaged_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("llama").write_text("{model: {name: own}, data: {train: d}}")
    assert load_space("llama").model.name == "own"


@pytest.mark.parametrize("source", ["lama", "spaces/lama.yaml", "lama.yml"])
def test_unknown_source_names_the_nearest_packaged_space(source: str) -> None:
    with pytest.raises(SpaceError, match="did you mean llama") as caught:
        load_space(source)
    assert len(caught.value.faults) == 1


@pytest.mark.parametrize("source", ["", "\0", "x" * 5000, "a/../..", ".", "nul\n"])
def test_impossible_sources_are_space_errors(source: str) -> None:
    with pytest.raises(SpaceError):
        load_space(source)


def test_unreadable_bytes(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"model: \xff\xfe")
    with pytest.raises(SpaceError, match="not UTF-8 text: byte 7 is 0xff"):
        load_space(path)
    path.write_bytes(b"\xef\xbb\xbfmodel: {name: m}\ndata: {train: d}")  # an editor's BOM
    assert load_space(path).model.name == "m"


def test_resolved_holds_every_default_and_loads_as_an_equal_space(
    load: Load, tmp_path: Path
) -> None:
    space = load(
        """
lora:
  r: {choice: [8, 16]}
  lora_alpha: {ratio_of: r, int: [1, 4]}
  rank_pattern: {"^model.layers.0": 4}
  use_dora:
    choice:
      - false
      - value: true
        with: {train.learning_rate: {log_uniform: [1e-5, 5e-4]}, lora_dropout: 0.1}
  init_lora_weights: {choice: [true, gaussian]}
train: {weight_decay: {uniform: [0, 0.1], step: 0.05}, lr_scheduler_kwargs: {num_cycles: 2}}
tracking: {wandb: {mode: offline}}
search: {scheduler: none}
"""
    )
    path = tmp_path / "mine.yaml"
    path.write_text(dump_space(space), encoding="utf-8")
    assert load_space(path) == space
    resolved = space.resolved()
    assert resolved["resources"] == {"workers": "auto", "threads": "auto", "gpus_per_trial": 1.0}
    assert resolved["search"]["scheduler"] == "none"  # type: ignore[index]


def test_strings_that_look_like_something_else_survive_a_dump(load: Load, tmp_path: Path) -> None:
    words = ["1e-5", "no", "none", "0x1f", "true", "null", "", " a", "2024-01-01", "12:30", "ünï"]
    space = load(f"lora: {{target_modules: {words[:5]!r}}}")
    tricky = space.model_copy(
        update={"data": space.data.model_copy(update={"fields": dict.fromkeys(words, "1e3")})}
    )
    text = dump_space(tricky)
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace("fields:", "fields: {}\n  ignored:", 1), encoding="utf-8")
    with pytest.raises(SpaceError) as caught:
        load_space(path)
    assert caught.value.faults[0].value == dict.fromkeys(words, "1e3")
