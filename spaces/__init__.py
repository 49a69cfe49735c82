"""What a user writes: the schema of a space file, its loader and the ready-made files.

    space = load_space("llama", ["search.trials=8"])
    config = space.sample(lambda name, domain: ...)

A space file holds the blocks `model`, `data`, `lora`, `train`, `search` and, if wanted,
`resources` and `tracking`; any value in `lora` and `train` may be a search domain. Nothing here
imports torch, transformers, peft, optuna or ray: a space is checked in a fraction of a second.
"""

from .blocks import (
    TRACKERS,
    ConfirmBlock,
    DataBlock,
    GeneralBlock,
    Limits,
    LoraBlock,
    ModelBlock,
    ResourcesBlock,
    SearchBlock,
    TrainBlock,
)
from .domains import Choice, Constant, Domain, FloatRange, IntRange, Label, Option, Ratio, Simple
from .errors import MISSING, Fault, SpaceError
from .loader import dump_space, load_space, packaged_spaces
from .rules import TARGET_PARTS, TARGET_PRESETS
from .sampling import Parameter, Sample, Suggest
from .schedulers import (
    PBT_CHANGES,
    AshaScheduler,
    HyperbandScheduler,
    MedianScheduler,
    PbtScheduler,
)
from .schema import json_schema
from .space import Space

__all__ = [
    "MISSING",
    "PBT_CHANGES",
    "TARGET_PARTS",
    "TARGET_PRESETS",
    "TRACKERS",
    "AshaScheduler",
    "Choice",
    "ConfirmBlock",
    "Constant",
    "DataBlock",
    "Domain",
    "Fault",
    "FloatRange",
    "GeneralBlock",
    "HyperbandScheduler",
    "IntRange",
    "Label",
    "Limits",
    "LoraBlock",
    "MedianScheduler",
    "ModelBlock",
    "Option",
    "Parameter",
    "PbtScheduler",
    "Ratio",
    "ResourcesBlock",
    "Sample",
    "SearchBlock",
    "Simple",
    "Space",
    "SpaceError",
    "Suggest",
    "TrainBlock",
    "dump_space",
    "json_schema",
    "load_space",
    "packaged_spaces",
]
