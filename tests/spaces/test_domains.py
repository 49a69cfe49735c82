"""Domains: how they are written, what is refused, and labels."""

from collections.abc import Callable

import pytest
from tune_lora.spaces import Choice, Fault, FloatRange, IntRange, Option, Ratio, Space

Faults = Callable[..., tuple[Fault, ...]]


@pytest.mark.parametrize(
    ("key", "text", "domain"),
    [
        ("train.weight_decay", "{uniform: [0, 0.1]}", FloatRange(0.0, 0.1)),
        ("train.weight_decay", "{uniform: [0, 0.3], step: 0.1}", FloatRange(0.0, 0.3, step=0.1)),
        ("train.learning_rate", "{log_uniform: [1e-5, 1]}", FloatRange(1e-5, 1.0, log=True)),
        ("lora.r", "{int: [4, 64], step: 4}", IntRange(4, 64, step=4)),
        ("lora.r", "{log_int: [4, 64]}", IntRange(4, 64, log=True)),
        ("train.warmup_steps", "{int: [0, 20]}", IntRange(0, 20)),
        ("lora.lora_alpha", "{ratio_of: r, choice: [1, 2]}",
         Ratio("lora.r", Choice((Option(1), Option(2))))),
        ("train.weight_decay", "{ratio_of: train.learning_rate, log_uniform: [1, 9]}",
         Ratio("train.learning_rate", FloatRange(1.0, 9.0, log=True))),
    ],
)  # fmt: skip
def test_written_forms(load: Callable[..., Space], key: str, text: str, domain: object) -> None:
    block, name = key.split(".")
    assert getattr(load("", f"{key}={text}"), block)[name] == domain


@pytest.mark.parametrize(
    ("override", "rule"),
    [
        ("lora.r={uniform: [1, 8]}", "write int or log_int"),
        ("lora.use_dora={int: [0, 1]}", "cannot be a range"),
        ("lora.use_dora={uniform: [0, 1]}", "write choice"),
        ("lora.target_modules={ratio_of: r, int: [1, 2]}", "cannot be a ratio"),
        ("lora.r={choice: []}", "at least one option"),
        ("lora.r={choice: 8}", "list of options"),
        ("lora.r={choice: [8, x]}", "must be a whole number"),
        ("lora.r={choice: [8, 8]}", "equal: 8"),
        ("lora.target_modules={choice: [[a], ['a']]}", "equal"),
        ("lora.target_modules={choice: [[a], '[\"a\"]']}", "equal"),
        ("lora.r={int: [8, 8]}", "below the second"),
        ("lora.r={int: [8]}", "two whole numbers"),
        ("lora.r={int: [1.0, 8]}", "two whole numbers"),
        ("lora.r={int: [0, 8]}", "must be at least 1"),
        ("lora.r={int: [1, 8], step: 3}", "7 is the last"),
        ("lora.r={int: [1, 8], step: 0}", "above 0"),
        ("lora.r={log_int: [1, 8], step: 1}", "log_int takes no 'step'"),
        ("lora.r={int: [1, 8], log_int: [1, 8]}", "exactly one"),
        ("lora.r={int: [1, 8], lgo: true}", "takes no 'lgo'"),
        ("train.weight_decay={log_uniform: [0, 1]}", "above 0"),
        ("train.weight_decay={uniform: [0, 1], step: 1e-12}", "too small"),
        ("train.learning_rate={uniform: [-1.7e308, 1.7e308]}", "too far apart"),
        ("lora.lora_dropout={uniform: [0, 1]}", "below 1"),
        ("train.max_steps={choice: [1, 2]}", "must be a constant"),
        ("train.seed={int: [1, 2]}", "must be a constant"),
        ("train.eval_steps={int: [1, 2]}", "must be a constant"),
        ("lora.lora_alpha={ratio_of: r}", "exactly one"),
        ("lora.lora_alpha={ratio_of: q, choice: [1]}", "names no other key"),
        ("lora.lora_alpha={ratio_of: lora_alpha, choice: [1]}", "names no other key"),
        ("lora.lora_alpha={ratio_of: 8, choice: [1]}", "name of a key"),
        ("lora.lora_alpha={ratio_of: target_modules, choice: [1]}", "must be a number"),
        ("lora.lora_alpha={ratio_of: r, choice: [-1]}", "above 0"),
        ("lora.lora_alpha={ratio_of: r, choice: [true]}", "it is a ratio"),
        ("lora.lora_alpha={ratio_of: r, choice: [0.01]}", "but is 0 for lora.r = 16"),
        ("train.weight_decay={ratio_of: max_steps, choice: [1.7e308]}", "too large"),
        ("lora.lora_dropout={ratio_of: r, uniform: [0.01, 0.5]}", "but is 8 for lora.r = 16"),
    ],
)  # fmt: skip
def test_refused_domains(faults: Faults, override: str, rule: str) -> None:
    found = faults("", override)
    assert len(found) == 1
    assert rule in found[0].rule


def test_ratio_of_a_ratio_is_refused(faults: Faults) -> None:
    found = faults(
        "lora: {lora_alpha: {ratio_of: r, choice: [1]}, r: {ratio_of: lora_alpha, choice: [1]}}"
    )
    assert all("must not itself be a ratio" in fault.rule for fault in found)
    assert len(found) == 2


CONDITIONAL = "lora:\n  use_dora: {choice: [false, {value: true, with: {%s}}]}\n%s"


@pytest.mark.parametrize(
    ("given", "more", "rule"),
    [
        ("lora.use_dora: false", "", "cannot depend on an option"),
        ("train.max_steps: 3", "", "cannot depend on an option"),
        ("train.seed: 3", "", "cannot depend on an option"),
        ("train.lr: 1.0", "", "unknown key"),
        ("train.output_dir: x", "", "is set by the harness"),
        ("search.trials: 3", "", "unknown key"),
        ("r: {choice: [{value: 1, with: {lora_alpha: 2}}]}", "", "one level of with"),
        ("r: 0", "", "must be at least 1"),
        (
            "lora_alpha: 3",
            "  use_rslora: {choice: [{value: true, with: {lora_alpha: 4}}]}",
            "only one choice may decide it",
        ),
        (
            "use_rslora: true",
            "  use_rslora: {choice: [{value: true, with: {lora_alpha: 4}}, false]}",
            "options of lora.use_rslora have a with",
        ),
        ("r: qv", "  lora_alpha: {ratio_of: r, choice: [1]}", "must be a whole number"),
        ("lora_alpha: {ratio_of: lora_bias, choice: [1]}", "", "names no other key"),
    ],
)
def test_refused_conditions(faults: Faults, given: str, more: str, rule: str) -> None:
    found = faults(CONDITIONAL % (given, more))
    assert any(rule in fault.rule for fault in found), [str(fault) for fault in found]


def test_condition_needs_a_mapping(faults: Faults) -> None:
    found = faults("lora: {use_dora: {choice: [{value: true, with: 3}, false]}}")
    assert [fault.path for fault in found] == ["lora.use_dora.choice.0.with"]


def test_mapping_without_a_domain_keyword_is_a_constant(load: Callable[..., Space]) -> None:
    space = load("lora: {rank_pattern: {value: 3, step: 4}}")
    assert space.lora["rank_pattern"] == {"value": 3, "step": 4}


def test_labels_are_what_a_study_can_store() -> None:
    options = ["qv", ["q", "v"], {"b": 1, "a": [2]}, None, 3, 0.5]
    choice = Choice(tuple(Option(value) for value in options))
    assert choice.labels == ("qv", '["q", "v"]', '{"a": [2], "b": 1}', None, 3, 0.5)
    assert [choice.option(label).value for label in choice.labels] == options
    with pytest.raises(ValueError, match="none of the labels"):
        choice.option("q")


@pytest.mark.parametrize("options", [[True, 1], [1, 1.0], [0, False], ["true", True], ["1", 1]])
def test_options_that_a_study_would_confuse(options: list[bool | float | str]) -> None:
    with pytest.raises(ValueError, match="equal"):
        Choice(tuple(Option(value) for value in options))


NUMBERS = FloatRange(0.0, 1.0)
STEPPED = FloatRange(0.1, 0.7, step=0.2)
WHOLE = IntRange(4, 64, step=4)
NAMES = Choice((Option("a"), Option(["b"]), Option(2), Option(None)))


@pytest.mark.parametrize(
    ("domain", "held", "not_held"),
    [
        (NUMBERS, [0, 0.0, 1 / 3, 1], [-1e-9, 1.1, True, "0.5", None, float("nan"), [0.5]]),
        (FloatRange(1e-5, 1e-2, log=True), [1e-5, 3e-4, 1e-2], [0, 1e-6, 1]),
        (STEPPED, [0.1, 0.3, 0.1 + 2 * 0.2, 0.5, 0.7], [0.2, 0.3001, 0.9, -0.1, 0.3 + 1e-7]),
        (WHOLE, [4, 8, 8.0, 64], [0, 5, 8.5, 6.0, 68, True, "8", None, float("inf")]),
        (IntRange(1, 8), [1, 7, 8.0], [0, 7.5, 9, True]),
        (NAMES, ["a", '["b"]', 2, None], ["b", ["b"], 3, {}]),
    ],
)
def test_what_a_domain_holds(
    domain: Choice | FloatRange | IntRange, held: list[object], not_held: list[object]
) -> None:
    assert [value for value in held if not domain.holds(value)] == []
    assert [value for value in not_held if domain.holds(value)] == []
