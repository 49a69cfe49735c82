"""The default configuration: the article's values within the space's own constants."""

from __future__ import annotations

from collections.abc import Callable

from tune_lora.search.baseline import baseline_values
from tune_lora.spaces import Space

SpaceOf = Callable[..., Space]

ARTICLE_LORA = {"r": 8, "lora_alpha": 32, "target_modules": "qv", "lora_dropout": 0.05}
ARTICLE_TRAIN = {
    "learning_rate": 2e-5,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.03,
    "optim": "paged_adamw_8bit",
}


def test_the_articles_values(space_of: SpaceOf) -> None:
    values = baseline_values(space_of())
    assert {key: values["lora"][key] for key in ARTICLE_LORA} == ARTICLE_LORA
    assert {key: values["train"][key] for key in ARTICLE_TRAIN} == ARTICLE_TRAIN


def test_batch_and_horizon_are_the_spaces_own(space_of: SpaceOf) -> None:
    train = baseline_values(space_of("train.max_steps=7", "train.gradient_accumulation_steps=3"))
    assert train["train"]["max_steps"] == 7
    assert train["train"]["per_device_train_batch_size"] == 4
    assert train["train"]["gradient_accumulation_steps"] == 3


def test_searched_fields_that_the_article_does_not_name_are_left_out(space_of: SpaceOf) -> None:
    searched = {"weight_decay": {"uniform": [0.0, 0.1]}, "use_dora": {"choice": [True, False]}}
    space = space_of(
        lora={"use_dora": searched["use_dora"]}, train={"weight_decay": searched["weight_decay"]}
    )
    values = baseline_values(space)
    assert "use_dora" not in values["lora"]
    assert "weight_decay" not in values["train"]


def test_searched_fields_of_a_batch_have_what_a_space_without_them_would_have(
    space_of: SpaceOf,
) -> None:
    keys = ("per_device_train_batch_size", "gradient_accumulation_steps")
    space = space_of(train={key: {"choice": [1, 2]} for key in keys})
    train = baseline_values(space)["train"]
    assert [train[key] for key in keys] == [4, 4]


def test_a_field_that_only_a_choice_brings_is_left_out(space_of: SpaceOf) -> None:
    given = {"value": True, "with": {"lora.init_lora_weights": {"choice": ["gaussian", "olora"]}}}
    space = space_of(lora={"use_dora": {"choice": [given, False]}})
    assert "init_lora_weights" not in baseline_values(space)["lora"]


def test_a_constant_that_only_a_choice_brings_is_left_out(space_of: SpaceOf) -> None:
    given = {"value": True, "with": {"lora.use_rslora": True}}
    space = space_of(lora={"use_dora": {"choice": [given, False]}})
    assert not baseline_values(space)["lora"].get("use_rslora", False)
