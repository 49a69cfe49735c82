"""Fixtures of the trial tests: base models of each architecture, data for them, and trials."""

from __future__ import annotations

import gc
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tiny_trials import Outcome
    from tune_lora.spaces import ModelBlock
    from tune_lora.trainer.base import BaseModel
    from tune_lora.trainer.config import TrialConfig
    from tune_lora.trainer.data import TokenizedData
    from tune_lora.trainer.export import Rescore
    from tune_lora.trainer.folder import TrialFolder

LABELS = ("apples", "pears")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def model_block(tiny: Callable[..., Path]) -> Callable[..., ModelBlock]:
    """The model block of a tiny model in fp32; nf4 weights stay packed."""

    def make(architecture: str = "llama", quantization: str = "none") -> ModelBlock:
        from tiny_models import TASKS
        from tune_lora.spaces import ModelBlock

        return ModelBlock.model_validate(
            {
                "name": str(tiny(architecture)),
                "task": TASKS[architecture],
                "quantization": quantization,
                "quantization_compute": "auto" if quantization == "none" else "bitsandbytes",
                "dtype": "fp32",
            }
        )

    return make


@pytest.fixture(scope="session")
def new_base(model_block: Callable[..., ModelBlock]) -> Callable[..., BaseModel]:
    """``new_base("gpt2")``: loaded anew at every call."""
    import tune_lora.trainer.run  # noqa: F401 - with all that it stands on

    # The Trainer collects garbage in every trial; what was imported need not be looked through.
    gc.collect()
    gc.freeze()

    def load(architecture: str = "llama", quantization: str = "none") -> BaseModel:
        from tiny_models import TASKS
        from tune_lora.trainer.base import BaseSpec, load_base

        labels = {"SEQ_CLS": LABELS, "TOKEN_CLS": (*LABELS, "none")}.get(TASKS[architecture], ())
        return load_base(BaseSpec.of(model_block(architecture, quantization), labels))

    return load


@pytest.fixture(scope="session")
def tokenized(
    tmp_path_factory: pytest.TempPathFactory, pairs: Path, new_base: Callable[..., BaseModel]
) -> Callable[..., TokenizedData]:
    """An architecture's data, tokenized once a session."""
    made: dict[str, TokenizedData] = {}
    texts = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    tagged = texts.with_name("tagged.jsonl")
    with texts.open("w") as classes, tagged.open("w") as tags:
        for i in range(40):
            label = LABELS[i % 2]
            print(json.dumps({"text": f"{i} {label}", "label": label}), file=classes)
            print(json.dumps({"tokens": [f"{i}", label], "tags": ["none", label]}), file=tags)

    def get(architecture: str = "llama") -> TokenizedData:
        from tiny_models import TASKS
        from tune_lora.spaces import DataBlock
        from tune_lora.trainer.data import tokenize

        if architecture not in made:
            block = DataBlock(train=str(pairs), max_length=128)
            if TASKS[architecture] == "SEQ_CLS":
                block = DataBlock(train=str(texts), format="classification")
            elif TASKS[architecture] == "TOKEN_CLS":
                block = DataBlock(train=str(tagged), format="token_classification")
            base = new_base(architecture)
            made[architecture] = tokenize(block, base.spec.task, base.tokenizer)
        return made[architecture]

    return get


@pytest.fixture
def base(new_base: Callable[..., BaseModel]) -> BaseModel:
    return new_base()


@pytest.fixture
def data(tokenized: Callable[..., TokenizedData]) -> TokenizedData:
    return tokenized()


@pytest.fixture
def trial(tmp_path: Path, base: BaseModel, data: TokenizedData) -> Callable[..., Outcome]:
    """Run a trial, by default on ``base`` and ``data``, in a folder of its own."""
    from tiny_trials import Outcome, go_on
    from tune_lora.trainer.folder import TrialFolder
    from tune_lora.trainer.run import run_trial

    numbers = itertools.count()

    def run(
        config: TrialConfig,
        *,
        base: BaseModel = base,
        data: TokenizedData = data,
        report: Callable[..., bool] = go_on,
        folder: TrialFolder | None = None,
    ) -> Outcome:
        folder = folder or TrialFolder(tmp_path / "trials" / str(next(numbers)))
        return Outcome(run_trial(config, base, data, report, folder), folder)

    return run


@pytest.fixture
def trained(trial: Callable[..., Outcome]) -> Outcome:
    from tiny_trials import make_config

    return trial(make_config({"target_modules": "all-linear"}, learning_rate=0.02))


@pytest.fixture
def export(
    trained: Outcome, model_block: Callable[..., ModelBlock], data: TokenizedData, tmp_path: Path
) -> Callable[..., Rescore]:
    """Export ``trained`` to ``tmp_path / "out"``."""

    from tune_lora.trainer.export import Recipe, export_adapter

    def run(**options: Any) -> Rescore:
        recipe = options.pop("recipe", Recipe(model_block()))
        options = {"batch_size": 2, **options}
        return export_adapter(trained.folder.adapter, tmp_path / "out", recipe, data, **options)

    return run


@pytest.fixture
def exported(
    trial: Callable[..., Outcome],
    new_base: Callable[..., BaseModel],
    tokenized: Callable[..., TokenizedData],
    model_block: Callable[..., ModelBlock],
    tmp_path: Path,
) -> Callable[..., Path]:
    """The folder of a briefly trained adapter."""

    from tiny_models import TASKS
    from tiny_trials import make_config
    from tune_lora.trainer.export import Forms, Recipe, export_adapter

    def make(
        architecture: str = "llama", *, merge: bool = False, quantize: bool = False, **options: Any
    ) -> Path:
        data, target = tokenized(architecture), tmp_path / "out"
        lora = {"target_modules": "all-linear", "r": 16, "lora_alpha": 32}
        config = make_config(
            {**lora, **options.pop("lora", {})},
            task=TASKS[architecture],
            max_steps=options.pop("steps", 2),
        )
        outcome = trial(config, base=new_base(architecture), data=data)
        recipe = Recipe(model_block(architecture), labels=data.labels, **options)
        export_adapter(
            outcome.folder.adapter, target, recipe, data, batch_size=4, forms=Forms(merge, quantize)
        )
        return target

    return make
