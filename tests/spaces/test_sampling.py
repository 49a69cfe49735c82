"""Parameters, drawing, finding, rungs."""

from collections.abc import Callable
from typing import Any

import pytest
from tune_lora.spaces import Choice, FloatRange, IntRange, Space

Load = Callable[..., Space]

SPACE = """
lora:
  lora_alpha: {ratio_of: r, choice: [0.5, 1, 2]}
  r: {choice: [8, 16]}
  target_modules: {choice: [qv, [q_proj, o_proj]]}
  use_dora:
    choice:
      - false
      - value: true
        with:
          train.learning_rate: {log_uniform: [1e-5, 5e-4]}
          lora_alpha: {ratio_of: r, choice: [4]}
          use_rslora: true
train: {learning_rate: {log_uniform: [1e-4, 1e-2]}, warmup_steps: {int: [0, 5]}}
"""


class Recorder:
    """Answers from a table, else with the first label or the lower bound."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def __call__(self, name: str, domain: Choice | FloatRange | IntRange) -> Any:
        self.asked.append(name)
        default = domain.labels[0] if isinstance(domain, Choice) else domain.low
        return self.answers.get(name.split(".")[1], default)


def test_parameters_and_their_conditions(load: Load) -> None:
    found = {p.name: p.condition for p in load(SPACE).parameters()}
    dora = ("lora.use_dora", True)
    assert found == {
        "lora.use_dora": None,
        "train.learning_rate@lora.use_dora=true": dora,
        "lora.lora_alpha.ratio@lora.use_dora=true": dora,
        "lora.r": None,
        "lora.lora_alpha.ratio": None,
        "lora.target_modules": None,
        "train.learning_rate": None,
        "train.warmup_steps": None,
    }


def test_draw_without_the_condition(load: Load) -> None:
    recorder = Recorder(target_modules='["q_proj", "o_proj"]', lora_alpha=2)
    sample = load(SPACE).sample(recorder)
    assert recorder.asked == [
        "lora.use_dora",
        "lora.r",
        "lora.target_modules",
        "train.learning_rate",
        "train.warmup_steps",
        "lora.lora_alpha.ratio",
    ]
    lora = sample["lora"]
    assert (lora["use_dora"], lora["r"], lora["lora_alpha"]) == (False, 8, 16)
    assert lora["target_modules"] == ["q_proj", "o_proj"]
    assert "use_rslora" not in lora
    assert sample["train"]["learning_rate"] == 1e-4
    assert sample["train"]["lr_scheduler_type"] == "cosine"


def test_draw_with_the_condition_replaces_the_spaces_own_domains(load: Load) -> None:
    recorder = Recorder(use_dora=True)
    sample = load(SPACE).sample(recorder)
    assert "train.learning_rate" not in recorder.asked
    assert "lora.lora_alpha.ratio" not in recorder.asked
    assert "train.learning_rate@lora.use_dora=true" in recorder.asked
    assert sample["train"]["learning_rate"] == 1e-5
    assert (sample["lora"]["lora_alpha"], sample["lora"]["use_rslora"]) == (32, True)


def test_ratio_of_whole_numbers_is_whole(load: Load) -> None:
    space = load("lora: {r: 3, lora_alpha: {ratio_of: r, uniform: [0.5, 2.5]}}")
    alpha = space.sample(lambda name, domain: 1.2)["lora"]["lora_alpha"]
    assert alpha == 4
    assert isinstance(alpha, int)


def test_unknown_label_is_refused(load: Load) -> None:
    with pytest.raises(ValueError, match="labels"):
        load(SPACE).sample(Recorder(r=9))


def test_samples_do_not_share_their_lists(load: Load) -> None:
    space = load("lora: {target_modules: [a, b]}")
    first: Any = space.sample(Recorder())["lora"]["target_modules"]
    first.append("c")
    assert space.sample(Recorder())["lora"]["target_modules"] == ["a", "b"]


def test_locate_finds_what_was_drawn(load: Load) -> None:
    space = load(SPACE)
    sample = space.sample(Recorder(use_dora=True, r=16))
    assert space.locate(sample) == {
        "lora.use_dora": True,
        "lora.r": 16,
        "lora.target_modules": "qv",
        "train.learning_rate@lora.use_dora=true": 1e-5,
        "train.warmup_steps": 0,
        "lora.lora_alpha.ratio@lora.use_dora=true": 4,
    }


@pytest.mark.parametrize(
    ("block", "key", "value"),
    [
        ("lora", "r", 32),
        ("lora", "lora_alpha", 9),
        ("lora", "lora_dropout", 0.1),
        ("lora", "target_modules", ["o_proj", "q_proj"]),
        ("lora", "bias", "none"),
        ("train", "learning_rate", 1.0),
        ("train", "learning_rate", "x"),
        ("train", "warmup_steps", 2.5),
        ("train", "max_steps", 100),
        ("train", "gradient_checkpointing", 1),
    ],
)
def test_locate_is_none_outside(load: Load, block: str, key: str, value: object) -> None:
    space = load(SPACE)
    sample = space.sample(Recorder())
    sample[block][key] = value
    assert space.locate(sample) is None


def test_locate_wants_the_whole_configuration(load: Load) -> None:
    space = load(SPACE)
    sample = space.sample(Recorder())
    del sample["lora"]["r"]
    assert space.locate(sample) is None
    assert space.locate({"lora": {}, "train": {}}) is None


@pytest.mark.parametrize(
    ("search", "steps", "rungs"),
    [
        ("{scheduler: none}", 27, (27,)),
        ("{scheduler: {asha: {grace_steps: 3}}}", 27, (3, 9, 27)),
        ("{scheduler: {asha: {grace_steps: 3}}}", 30, (3, 9, 27, 30)),
        ("{scheduler: {asha: {grace_steps: 30}}}", 30, (30,)),
        ("{scheduler: asha}", 200, (22, 66, 198, 200)),
        ("{scheduler: asha}", 5, (1, 3, 5)),
        ("{scheduler: {asha: {reduction_factor: 2}}}", 16, (4, 8, 16)),
        ("{scheduler: asha}", 1, (1,)),
        ("{scheduler: hyperband}", 200, (22, 66, 198, 200)),
        ("{scheduler: median}", 200, (25, 50, 75, 100, 125, 150, 175, 200)),
        ("{scheduler: {median: {interval_steps: 3}}}", 10, (3, 6, 9, 10)),
        ("{scheduler: pbt}", 5, (1, 2, 3, 4, 5)),
        ("{scheduler: {pbt: {interval_steps: 10}}}", 10, (10,)),
    ],
)
def test_rungs(load: Load, search: str, steps: int, rungs: tuple[int, ...]) -> None:
    text = f"search: {search}\ntrain: {{learning_rate: {{log_uniform: [1.0e-4, 1.0e-3]}}}}"
    assert load(text, f"train.max_steps={steps}").rungs() == rungs
