"""The JSON Schema: what editors complete agrees with what the loader takes."""

import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from tune_lora.spaces import Fault, Space, json_schema, load_space, packaged_spaces
from tune_lora.spaces.errors import FaultLog
from tune_lora.spaces.fields import lora_fields, train_fields
from tune_lora.spaces.nearest import valid_keys
from tune_lora.spaces.rules import reserved
from tune_lora.spaces.yamltext import read_yaml

HEAD = "model: {name: m}\ndata: {train: d.jsonl}\n"


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_is_json() -> None:
    assert json.loads(json.dumps(json_schema())) == json_schema()


def test_every_foreign_field_is_there_with_its_description() -> None:
    blocks = json_schema()["properties"]
    for block, fields in (("lora", lora_fields()), ("train", train_fields())):
        known = {name for name in fields if not reserved(f"{block}.{name}")}
        assert set(blocks[block]["properties"]) == known
    assert blocks["lora"]["properties"]["r"]["default"] == 16
    assert "warmup" in blocks["train"]["properties"]["warmup_steps"]["description"]


def test_every_fixed_key_has_a_description() -> None:
    blocks = json_schema()["properties"]
    for block in ("model", "data", "search", "resources"):
        for name, entry in blocks[block]["properties"].items():
            assert entry.get("description"), f"{block}.{name}"
            assert f"{block}.{name}" in valid_keys()


@pytest.mark.parametrize("name", packaged_spaces())
def test_packaged_files_and_their_dumps_are_valid(
    validator: jsonschema.Draft202012Validator, name: str
) -> None:
    text = Path(str(resources.files("tune_lora.spaces") / f"{name}.yaml")).read_text()
    validator.validate(read_yaml(text, FaultLog()).data)
    validator.validate(load_space(name).resolved())


@pytest.mark.parametrize(
    "text",
    [
        "lora: {r: {log_int: [4, 64]}}",
        "lora: {init_lora_weights: pissa_niter_16}",
        "lora: {target_modules: {choice: [qv, [a], 'x.*']}}",
        "lora: {use_dora: {choice: [false, {value: true, with: {train.learning_rate: 0.1}}]}}",
        "lora: {lora_alpha: {ratio_of: r, uniform: [1, 2], step: 0.5}}",
        "train: {warmup_steps: {int: [1, 20]}, lr_scheduler_kwargs: {a: 1}}",
        "search: {metric: json_f1, metrics: [rougeL, my.metrics:close], generation: {rows: 8}}",
        "search: {metric: [bleu, parameters, my.metrics:close], sampler: gp}",
        "search: {scheduler: none}\ntracking: wandb",
        "search: {scheduler: hyperband}",
        "search: {scheduler: {median: {min_trials: 5}}}",
        "search: {scheduler: {asha: }}\ntracking: {wandb: {project: x}}",
        "resources: {workers: 2, threads: auto}",
        "tracking: [wandb, tensorboard]",
        "tracking: {tensorboard: , mlflow: {experiment: e}}",
    ],
)
def test_both_accept(
    validator: jsonschema.Draft202012Validator, load: Callable[..., Space], text: str
) -> None:
    load(text)
    validator.validate(read_yaml(HEAD + text, FaultLog()).data)


@pytest.mark.parametrize(
    "text",
    [
        "lora: {rr: 8}",
        "lora: {task_type: x}",
        "lora: {r: 0}",
        "lora: {r: 2.5}",
        "lora: {r: {uniform: [1, 2]}}",
        "lora: {r: {choice: [0]}}",
        "lora: {r: {choice: []}}",
        "lora: {lora_dropout: 1.0}",
        "lora: {init_lora_weights: pissa_niter_x}",
        "lora: {target_modules: []}",
        "lora: {lora_alpha: {ratio_of: r}}",
        "train: {optim: adam}",
        "train: {max_steps: {int: [1, 2]}}",
        "train: {learning_rate: {log_uniform: [0, 1]}}",
        "search: {scheduler: bohb}",
        "search: {scheduler: {pbt: {quantile: 0.6}}}",
        "search: {trials: 0}",
        "search: {metric: bleau}",
        "search: {metric: parameters}",
        "search: {metric: [eval_loss]}",
        "search: {metric: [eval_loss, eval_loss]}",
        "search: {metric: [eval_loss, bleau]}",
        "search: {metric: [eval_loss, 3]}",
        "search: {metrics: [eval_loss, seconds]}",
        "search: {metrics: [a.b]}",
        "search: {metrics: rougeL}",
        "search: {generation: {rows: 0}}",
        "tracking: {comet: {}}",
        "tracking: [wandb, none]",
        "tracking: {mlflow: {tracking_uri: ''}}",
        "unknown: {}",
    ],
)
def test_both_refuse(
    validator: jsonschema.Draft202012Validator,
    faults: Callable[..., tuple[Fault, ...]],
    text: str,
) -> None:
    assert faults(text)
    data: Any = read_yaml(HEAD + text, FaultLog()).data
    assert not validator.is_valid(data)


@pytest.mark.parametrize("general", ["null", "g.jsonl", "{source: g.jsonl, rows: 8}"])
def test_a_general_text_is_a_source_or_a_block(
    validator: jsonschema.Draft202012Validator, load: Callable[..., Space], general: str
) -> None:
    text = f"model: {{name: m}}\ndata: {{train: d, general: {general}}}"
    load(text, whole=True)
    validator.validate(read_yaml(text, FaultLog()).data)
    assert not validator.is_valid(read_yaml(text.replace(general, "[a]"), FaultLog()).data)
