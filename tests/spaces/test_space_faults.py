"""What a user is told of a space that cannot be used."""

import pickle
from collections.abc import Callable

import pytest
from tune_lora.spaces import MISSING, Fault, Space, SpaceError

Faults = Callable[..., tuple[Fault, ...]]


def only(found: tuple[Fault, ...]) -> Fault:
    assert len(found) == 1, [str(fault) for fault in found]
    return found[0]


def test_all_faults_at_once_in_the_order_of_the_file(faults: Faults) -> None:
    found = faults("lora:\n  rr: 8\n  lora_dropout: 1.0\ntrain:\n  max_steps: 0\nsearc: {}")
    assert [(fault.line, fault.path) for fault in found] == [
        (4, "lora.rr"),
        (5, "lora.lora_dropout"),
        (7, "train.max_steps"),
        (8, "searc"),
    ]


def test_text_of_a_fault(faults: Faults) -> None:
    fault = only(faults("lora: {rr: 8}"))
    assert str(fault).endswith("mine.yaml:3: lora.rr = 8: unknown key; did you mean lora.r?")


def test_fault_of_an_override_names_the_command_line(faults: Faults) -> None:
    fault = only(faults("lora: {r: 8}", "lora.r=0"))
    assert (fault.source, fault.line) == ("command line", None)
    assert str(fault) == "command line: lora.r = 0: must be at least 1"


def test_fault_below_an_override_names_the_command_line_too(faults: Faults) -> None:
    fault = only(faults("", "lora.r={choice: [8, 0]}"))
    assert (fault.path, fault.source) == ("lora.r.choice.1", "command line")


@pytest.mark.parametrize("override", ["search.trials", "=3", "search..trials=3", "", ".=1"])
def test_malformed_override(faults: Faults, override: str) -> None:
    fault = only(faults("", override))
    assert fault.source == "command line"
    assert "key.path=value" in fault.rule


def test_override_that_is_not_yaml(faults: Faults) -> None:
    assert "not YAML" in only(faults("", "lora.r=[1")).rule


@pytest.mark.parametrize(
    ("text", "suggestion"),
    [
        ("train: {r: 8}", "lora.r"),
        ("lora: {learning_rate: 1.0}", "train.learning_rate"),
        ("train: {lr: 1.0}", "train.learning_rate"),
        ("train: {learning-rate: 1.0}", "train.learning_rate"),
        ("lora: {targets: qv}", "lora.target_modules"),
        ("search: {n_trials: 3}", "search.trials"),
        ("search: {max_steps: 3}", "train.max_steps"),
        ("search: {scheduler: {asha: {grace: 3}}}", "search.scheduler.asha.grace_steps"),
        ("data: {limit: {trian: 3}, train: d}", "data.limit.train"),
        ("learning_rate: 1.0", "train.learning_rate"),
        ("serach: {}", "search"),
        ("tracking: {wandb: {projet: x}}", "tracking.wandb.project"),
        ("tracking: {wandbb: {}}", "tracking.wandb"),
        ("tracking: {mlflow: {trackinguri: x}}", "tracking.mlflow.tracking_uri"),
    ],
)
def test_unknown_key_names_what_was_meant(faults: Faults, text: str, suggestion: str) -> None:
    head = "model: {name: m}\n" + ("" if text.startswith("data") else "data: {train: d}\n")
    fault = only(faults(head + text, whole=True))
    assert fault.suggestions[0] == suggestion


@pytest.mark.parametrize(
    ("text", "path", "word"),
    [
        ("lora: {task_type: CAUSAL_LM}", "lora.task_type", "model.task"),
        ("lora: {revision: main}", "lora.revision", "model.revision"),
        ("train: {num_train_epochs: 3}", "train.num_train_epochs", "same horizon"),
        ("train: {report_to: wandb}", "train.report_to", "tracking"),
        ("train: {save_steps: 3}", "train.save_steps", "rungs"),
        ("train: {eval_strategy: steps}", "train.eval_strategy", "train.eval_steps"),
        ("train: {hub_model_id: x}", "train.hub_model_id", "push"),
        ("train: {warmup_ratio: 0.1}", "train.warmup_ratio", "warmup_steps"),
        ("train: {metric_for_best_model: f1}", "train.metric_for_best_model", "search.metric"),
    ],
)
def test_reserved_key_says_why_and_what_instead(
    faults: Faults, text: str, path: str, word: str
) -> None:
    fault = only(faults(text))
    assert fault.path == path
    assert word in fault.rule


@pytest.mark.parametrize(
    ("text", "path", "rule"),
    [
        ("lora: {r: 8.0}", "lora.r", "must be a whole number"),
        ("lora: {r: true}", "lora.r", "must be a whole number"),
        ("lora: {r: '8'}", "lora.r", "must be a whole number"),
        ("lora: {lora_alpha: 0}", "lora.lora_alpha", "must be above 0"),
        ("lora: {lora_dropout: 1}", "lora.lora_dropout", "must be at least 0 and below 1"),
        ("lora: {bias: some}", "lora.bias", "must be one of none, all, lora_only"),
        ("train: {learning_rate: 0.0}", "train.learning_rate", "must be above 0"),
        ("train: {optim: adam}", "train.optim", "adamw_torch"),
        ("train: {seed: 5000000000}", "train.seed", "at most"),
        ("train: {eval_steps: 0.5}", "train.eval_steps", "whole number or null"),
        ("train: {early_stopping_patience: 0}", "train.early_stopping_patience", "at least 1"),
        ("search: {trials: 0}", "search.trials", "must be at least 1"),
        ("search: {trials: '8'}", "search.trials", "must be a whole number"),
        (
            "search: {metric: f1}",
            "search.metric",
            "is of classes, and model.task CAUSAL_LM has none",
        ),
        ("search: {metric: bleau}", "search.metric", "is no metric; there are eval_loss"),
        ("search: {metrics: [a.b]}", "search.metrics", "is no metric"),
        ("search: {metrics: bleu}", "search.metrics", "must be a list"),
        ("search: {metric: forgetting}", "search.metric", "name it (data.general)"),
        ("search: {metrics: [general_loss]}", "search.metrics", "name it (data.general)"),
        ("search: {generation: {tokens: 8}}", "search.generation.tokens", "unknown key"),
        ("search: {generation: {rows: 0}}", "search.generation.rows", "must be at least 1"),
        (
            "search: {scheduler: bohb}",
            "search.scheduler",
            "must be one of asha, hyperband, median, pbt, none",
        ),
        (
            "search: {scheduler: {median: {interval_steps: 201}}}",
            "search.scheduler.median.interval_steps",
            "must be at most train.max_steps, which is 200",
        ),
        (
            "search: {scheduler: pbt}\ntrain: {learning_rate: 1e-4}",
            "search.scheduler",
            "needs a domain for one of train.learning_rate, ",
        ),
        (
            "search: {scheduler: {pbt: {quantile: 0.6}}}",
            "search.scheduler.pbt.quantile",
            "at most 0.5",
        ),
        (
            "search: {scheduler: {asha: {reduction_factor: 1}}}",
            "search.scheduler.asha.reduction_factor",
            "at least 2",
        ),
        (
            "search: {scheduler: {asha: {grace_steps: 201}}}",
            "search.scheduler.asha.grace_steps",
            "at most train.max_steps, which is 200",
        ),
        ("resources: {workers: 0}", "resources.workers", "at least 1"),
        ("resources: {workers: many}", "resources.workers", "whole number or auto"),
        ("resources: {gpus_per_trial: 0}", "resources.gpus_per_trial", "above 0"),
        ("resources: 4", "resources", "must be a mapping"),
        ("lora: [r, 8]", "lora", "must be a mapping"),
        ("tracking: {wandb: {mode: of}}", "tracking.wandb.mode", "auto, online, offline"),
        ("tracking: comet", "tracking", "must be one of wandb, tensorboard, mlflow, none"),
        ("tracking: [wandb, none]", "tracking", "must be one of wandb, tensorboard, mlflow"),
        ("tracking: 3", "tracking", "must be a mapping"),
        (
            "tracking: {mlflow: {tracking_uri: 'http://me:secret@host:5000'}}",
            "tracking.mlflow.tracking_uri",
            "an address without a password",
        ),
    ],
)
def test_values_out_of_bounds(faults: Faults, text: str, path: str, rule: str) -> None:
    fault = only(faults(text))
    assert fault.path == path
    assert rule in fault.rule


@pytest.mark.parametrize(
    ("data", "path", "rule"),
    [
        ("validation: 0.0", "data.validation", "above 0"),
        ("validation: 1.0", "data.validation", "below 1"),
        ("validation: 0.5, test: 0.5", "data.validation", "rows to train on"),
        ("max_length: 7", "data.max_length", "at least 8"),
        ("limit: {train: 0}", "data.limit.train", "at least 1"),
        ("fields: {txt: a}", "data.fields.txt", "instruction, input, response"),
        ("fields: {input: 3}", "data.fields.input", "a string"),
        ("template: 'Q: {input}'", "data.template", "must hold {instruction}"),
        ("template: '{instruction} {x}'", "data.template", "not ['x']"),
        ("template: '{instruction'", "data.template", "is not a template"),
        ("template: '{instruction!r}'", "data.template", "unformatted"),
        (
            "format: classification",
            "data.format",
            "must be one of instruction, chat, completion, text for model.task CAUSAL_LM "
            "(this one is for SEQ_CLS)",
        ),
        (
            "format: chat, template: '{instruction}'",
            "data.template",
            "is for data.format instruction only",
        ),
        ("format: completion, fields: {input: a}", "data.fields.input", "prompt, completion"),
    ],
)
def test_data_faults(faults: Faults, data: str, path: str, rule: str) -> None:
    text = f"model: {{name: m}}\ndata: {{train: d, {data}}}"
    fault = only(faults(text, whole=True))
    assert fault.path == path
    assert rule in fault.rule


def test_shares_of_own_sources_need_not_leave_rows(load: Callable[..., Space]) -> None:
    text = "model: {name: m}\ndata: {train: d, validation: 0.9, test: t.jsonl}"
    assert load(text, whole=True).data.test == "t.jsonl"


def test_task_and_format_must_agree(faults: Faults, load: Callable[..., Space]) -> None:
    text = "model: {name: m, task: SEQ_CLS}\ndata: {train: d}"
    assert only(faults(text, whole=True)).path == "data.format"
    found = load(text, "data.format=classification", "model.num_labels=3", whole=True)
    assert found.model.num_labels == 3
    assert only(faults("", "model.num_labels=3")).path == "model.num_labels"


def test_how_nf4_is_computed_with_is_said_where_there_is_nf4(
    faults: Faults, load: Callable[..., Space]
) -> None:
    key = "model.quantization_compute"
    assert load("", f"{key}=dequantized").model.quantization_compute == "dequantized"
    fault = only(faults("", "model.quantization=none", f"{key}=dequantized"))
    assert (fault.path, fault.value) == (key, "dequantized")
    assert "model.quantization nf4 only" in fault.rule
    fault = only(faults("", f"{key}=packed"))
    assert (fault.path, fault.value) == (key, "packed")


def test_missing_required_keys(faults: Faults) -> None:
    found = faults("lora: {r: 8}", whole=True)
    assert [(fault.path, fault.rule) for fault in found] == [
        ("model.name", "is required"),
        ("data.train", "is required"),
    ]
    assert found[0].value is MISSING


@pytest.mark.parametrize(
    ("value", "suggestions"),
    [
        ("atention", ("attention",)),
        ("all_linear", ("all-linear",)),
        ("All-Linear", ("all-linear",)),
        ("[]", ("qv", "attention", "mlp", "all-linear")),
        ("'('", ()),
        ("[1]", ()),
        ("''", ("qv", "attention", "mlp", "all-linear")),
    ],
)
def test_target_modules_faults(faults: Faults, value: str, suggestions: tuple[str, ...]) -> None:
    fault = only(faults(f"lora: {{target_modules: {value}}}"))
    assert fault.suggestions == suggestions


@pytest.mark.parametrize(
    "value", ["qv", "[q_proj]", "'.*attn.*(q|v)_proj'", "c_attn", "dense", "attn.c_proj", "null"]
)
def test_target_modules_that_may_be_meant(load: Callable[..., Space], value: str) -> None:
    load(f"lora: {{target_modules: {value}}}")


def test_single_serves_other_rooms_and_errors_cross_processes() -> None:
    error = SpaceError.single("model.name", "x", "is not there", ["y"])
    assert str(error) == "model.name = x: is not there; did you mean y?"
    assert isinstance(error, ValueError)
    assert pickle.loads(pickle.dumps(error)).faults == error.faults


def test_terminal_is_safe_from_what_a_file_holds(faults: Faults) -> None:
    text = str(only(faults('lora: {bias: "\\e[31m\\n' + "x" * 500 + '"}')))
    assert "\x1b" not in text
    assert "\n" not in text
    assert len(text) < 250


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("exactmatch", "exact_match"),
        ("ROUGE-L", "rougeL"),
        ("loss", "eval_loss"),
        ("acuracy", "accuracy"),
    ],
)
def test_unknown_metric_names_the_nearest(
    faults: Callable[..., tuple[Fault, ...]], name: str, meant: str
) -> None:
    (fault,) = faults(f"search: {{metric: {name}}}")
    assert fault.suggestions[0] == meant


def test_metrics_suit_the_task(
    load: Callable[..., Space], faults: Callable[..., tuple[Fault, ...]]
) -> None:
    text = (
        "model: {{name: m, task: {task}}}\ndata: {{train: d.jsonl, format: {form}}}\n"
        "search: {{metric: {metric}, metrics: [{further}]}}"
    )
    classes = {"task": "SEQ_CLS", "form": "classification"}
    found = faults(text.format(**classes, metric="bleu", further="f1, json_f1"), whole=True)
    assert [fault.value for fault in found] == ["bleu", "json_f1"]
    assert "model.task SEQ_CLS gives none" in found[0].rule
    space = load(text.format(**classes, metric="f1", further="accuracy, mine:own"), whole=True)
    assert (space.search.metric, space.search.metrics) == ("f1", ["accuracy", "mine:own"])
    pairs = {"task": "SEQ_2_SEQ_LM", "form": "instruction"}
    assert load(text.format(**pairs, metric="rouge1", further="perplexity"), whole=True)
    assert faults(text.format(**pairs, metric="rouge1", further="accuracy"), whole=True)


@pytest.mark.parametrize(
    ("general", "path", "rule"),
    [
        ("3", "data.general", "must be a mapping"),
        ("''", "data.general", "must be a string that is not empty"),
        ("{rows: 4}", "data.general.source", "is required"),
        ("{source: g.jsonl, rows: 0}", "data.general.rows", "must be at least 1"),
        ("{source: g.jsonl, colum: body}", "data.general.colum", "unknown key"),
    ],
)
def test_a_general_text_that_is_none(faults: Faults, general: str, path: str, rule: str) -> None:
    text = f"model: {{name: m}}\ndata: {{train: d.jsonl, general: {general}}}"
    fault = only(faults(text, whole=True))
    assert (fault.path, fault.rule) == (path, rule)


def test_a_general_text_is_for_models_that_write_on(
    faults: Faults, load: Callable[..., Space]
) -> None:
    text = "model: {{name: m, task: {}}}\ndata: {{train: d, format: {}, general: g.jsonl}}"
    for task, form in (("SEQ_2_SEQ_LM", "seq2seq"), ("SEQ_CLS", "classification")):
        fault = only(faults(text.format(task, form), whole=True))
        assert (fault.path, fault.value) == ("data.general", "g.jsonl")
        assert fault.rule.startswith(f"is for model.task CAUSAL_LM: {task} has no loss on plain")
    space = load(text.format("CAUSAL_LM", "chat"), "search.metrics=[forgetting]", whole=True)
    assert space.data.general is not None
    assert space.data.general.model_dump() == {"source": "g.jsonl", "column": "text", "rows": 64}
    assert space.resolved()["data"]["general"]["rows"] == 64  # type: ignore[index]


@pytest.mark.parametrize(
    ("search", "path", "rule"),
    [
        ("metric: [eval_loss]", "search.metric", "or a list of two or three different ones"),
        ("metric: []", "search.metric", "or a list of two or three different ones"),
        ("metric: [bleu, bleu]", "search.metric", "or a list of two or three different ones"),
        (
            "metric: [bleu, eval_loss, rougeL, seconds]",
            "search.metric",
            "or a list of two or three different ones",
        ),
        ("metric: [parameters, eval_loss]", "search.metric", "cannot begin with parameters"),
        ("metric: [eval_loss, params]", "search.metric", "is no objective; there are eval_loss"),
        ("metric: [eval_loss, 3]", "search.metric", "must be a string"),
        ("metric: 3", "search.metric", "must be a string"),
        ("metric: [eval_loss, forgetting]", "search.metric", "name it (data.general)"),
        ("metric: [eval_loss, accuracy]", "search.metric", "model.task CAUSAL_LM has none"),
        ("metric: memory", "search.metric", "write search.metric: [eval_loss, memory]"),
        ("metrics: [seconds]", "search.metrics", "write search.metric: [eval_loss, seconds]"),
        (
            "metric: [eval_loss, parameters], sampler: cmaes",
            "search.sampler",
            "takes one objective, and search.metric names 2; use tpe, gp, random, grid, qmc",
        ),
    ],
)
def test_objectives_that_cannot_be(faults: Faults, search: str, path: str, rule: str) -> None:
    fault = only(faults(f"search: {{{search}}}"))
    assert fault.path == path
    assert rule in fault.rule


def test_several_objectives(load: Callable[..., Space]) -> None:
    space = load("search: {metric: [bleu, parameters, mine:own]}")
    assert space.search.objectives == ("bleu", "parameters", "mine:own")
    assert load("").search.objectives == ("eval_loss",)
    assert load("", "search.metric=[eval_loss, seconds]").search.objectives[1] == "seconds"
