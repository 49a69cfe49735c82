"""The Python code of a model card: how to load an adapter with plain peft."""

from __future__ import annotations

from ..spaces.formats import CLASSIFIERS
from .card_facts import AUTO_CLASSES, CardFacts

_DTYPES = {"fp32": "torch.float32", "fp16": "torch.float16", "bf16": "torch.bfloat16"}
_HEADS = '["lm_head", "classifier", "score", "qa_outputs"]'


def loading_code(facts: CardFacts) -> str:
    """A script that loads base model and adapter and runs them once."""
    auto = AUTO_CLASSES[facts.task]
    quantized = facts.quantization == "nf4"
    names = sorted([auto, "AutoTokenizer", *(["BitsAndBytesConfig"] if quantized else [])])
    lines = [
        "import torch",
        "from peft import PeftModel",
        f"from transformers import {', '.join(names)}",
        "",
        *(_quantization(facts) if quantized else []),
        f"base = {auto}.from_pretrained(",
        f"    {_literal(facts.base_model)},",
        *(["    quantization_config=quantization,"] if quantized else []),
        f"    dtype={_dtype(facts)},",
        '    device_map="auto",',
        *_labels(facts),
        ")",
        f"model = PeftModel.from_pretrained(base, {_literal(facts.name)}).eval()",
        *_use(facts, _literal(facts.base_model)),
    ]
    return "\n".join(lines) + "\n"


def merged_code(facts: CardFacts, folder: str) -> str:
    """A script that loads a merged model, which needs no peft, and runs it once.

    Its folder is given by path: with ``subfolder=``, transformers looks at the folder above
    first, finds the adapter's config there, and looks for the base model instead.

    Args:
        facts: of the export.
        folder: of the merged model, below the adapter's.
    """
    auto = AUTO_CLASSES[facts.task]
    path = _literal(f"{facts.name.rstrip('/')}/{folder}")
    fetched = []
    if facts.on_hub:
        path = f'folder + "/{folder}"'
        fetched = [f"folder = snapshot_download({_literal(facts.name)})"]
    lines = [
        "import torch",
        *(["from huggingface_hub import snapshot_download"] if facts.on_hub else []),
        f"from transformers import {', '.join(sorted([auto, 'AutoTokenizer']))}",
        "",
        *fetched,
        f"model = {auto}.from_pretrained(",
        f"    {path},",
        f"    dtype={_dtype(facts)},",
        '    device_map="auto",',
        ").eval()",
        *_use(facts, path),
    ]
    return "\n".join(lines) + "\n"


def _quantization(facts: CardFacts) -> list[str]:
    # For `auto` the code decides where it runs: what the trial had, this machine may lack.
    compute = _DTYPES.get(
        facts.dtype, "torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16"
    )
    return [
        "quantization = BitsAndBytesConfig(",
        "    load_in_4bit=True,",
        '    bnb_4bit_quant_type="nf4",',
        f"    bnb_4bit_use_double_quant={facts.double_quant},",
        f"    bnb_4bit_compute_dtype={compute},",
        "    # Heads were not quantized in training.",
        f"    llm_int8_skip_modules={_HEADS},",
        ")",
    ]


def _labels(facts: CardFacts) -> list[str]:
    if facts.task not in CLASSIFIERS or not facts.labels:
        return []
    names = ", ".join(f"{index}: {_literal(name)}" for index, name in enumerate(facts.labels))
    return [f"    num_labels={len(facts.labels)},", f"    id2label={{{names}}},"]


def _use(facts: CardFacts, tokenizer: str) -> list[str]:
    lines = [
        f"tokenizer = AutoTokenizer.from_pretrained({tokenizer})",
        "",
        f'inputs = tokenizer({_literal(facts.prompt)}, return_tensors="pt")',
        "with torch.no_grad():",
    ]
    if facts.task == "SEQ_CLS":
        return [
            *lines,
            "    logits = model(**inputs.to(model.device)).logits",
            "print(model.config.id2label[int(logits.argmax(-1))])",
        ]
    if facts.task == "TOKEN_CLS":
        return [
            *lines,
            "    tags = model(**inputs.to(model.device)).logits[0].argmax(-1)",
            'for token, tag in zip(tokenizer.convert_ids_to_tokens(inputs["input_ids"][0]), tags):',
            "    print(token, model.config.id2label[int(tag)])",
        ]
    return [
        *lines,
        "    output = model.generate(**inputs.to(model.device), max_new_tokens=128)",
        "print(tokenizer.decode(output[0], skip_special_tokens=True))",
    ]


def _dtype(facts: CardFacts) -> str:
    return _DTYPES.get(facts.dtype, '"auto"')


def _literal(text: str) -> str:
    """The text as a Python literal, in double quotes where that needs no escaping."""
    literal = repr(text)
    return f'"{literal[1:-1]}"' if "'" not in text and '"' not in text else literal
