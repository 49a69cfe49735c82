"""The metrics that trials can be measured and ranked by: their names, and which way is better.

What computes them is in the trainer; nothing heavy is imported here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import Discriminator, Field, Tag, WithJsonSchema

Source: TypeAlias = Literal["loss", "answers", "classes", "general", "trial", "own"]

LOSS: Final = "eval_loss"
GENERAL: Final = "general_loss"
FORGETTING: Final = "forgetting"
_OWN: Final = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


@dataclass(frozen=True)
class Metric:
    """A metric.

    Attributes:
        name: as written in a space file.
        source: what it is computed of: the loss, generated answers, predicted classes, the loss of
            a general text, the trial itself, or whatever a function of the user's makes of answers
            or classes.
        maximize: whether larger is better.
        unit: for axes; empty for a share.
    """

    name: str
    source: Source
    maximize: bool
    unit: str = ""

    @property
    def label(self) -> str:
        """The name with its unit, for axes."""
        return f"{self.name}, {self.unit}" if self.unit else self.name


METRICS: Final = {
    metric.name: metric
    for metric in (
        Metric(LOSS, "loss", maximize=False, unit="nats"),
        Metric("perplexity", "loss", maximize=False),
        Metric("exact_match", "answers", maximize=True),
        Metric("bleu", "answers", maximize=True, unit="0 to 100"),
        Metric("rouge1", "answers", maximize=True),
        Metric("rouge2", "answers", maximize=True),
        Metric("rougeL", "answers", maximize=True),
        Metric("json_valid", "answers", maximize=True),
        Metric("json_f1", "answers", maximize=True),
        Metric("accuracy", "classes", maximize=True),
        Metric("f1", "classes", maximize=True),
        Metric(GENERAL, "general", maximize=False, unit="nats"),
        Metric(FORGETTING, "general", maximize=False, unit="nats"),
    )
}
"""Those that have a name of their own."""

COSTS: Final = {
    cost.name: cost
    for cost in (
        Metric("parameters", "trial", maximize=False),
        Metric("seconds", "trial", maximize=False),
        Metric("memory", "trial", maximize=False, unit="bytes"),
    )
}
"""What a trial takes: objectives beside a metric, known when it has ended."""


def _schema(*named: str) -> dict[str, Any]:
    # Those with a name come first, for editors offer them.
    return {"anyOf": [{"enum": [*named]}, {"type": "string", "pattern": f"^{_OWN.pattern}$"}]}


MetricName: TypeAlias = Annotated[str, Field(min_length=1), WithJsonSchema(_schema(*METRICS))]
"""A metric's name in a space file; that there is such a one, ``find_metric`` says."""

_SEVERAL: Final[dict[str, Any]] = {
    "type": "array",
    "items": _schema(*METRICS, *COSTS),
    "minItems": 2,
    "maxItems": 3,
    "uniqueItems": True,
}
Objective: TypeAlias = Annotated[
    Annotated[MetricName, Tag("one")]
    | Annotated[
        list[Annotated[str, Field(min_length=1)]], WithJsonSchema(_SEVERAL), Tag("several")
    ],
    Discriminator(lambda value: "several" if isinstance(value, list) else "one"),
]
"""A metric, or two or three objectives; that there are such, ``find_objective`` says."""


def find_metric(name: str) -> Metric:
    """The metric of that name; of a user's own (``module:function``), larger is better.

    Raises:
        ValueError: there is none, and it is no ``module:function``.
    """
    if name in METRICS:
        return METRICS[name]
    if _OWN.fullmatch(name):
        return Metric(name, "own", maximize=True)
    raise ValueError(f"is no metric; there are {', '.join(METRICS)}, and module:function")


def find_objective(name: str) -> Metric:
    """The metric of that name, or what a trial takes.

    Raises:
        ValueError: there is none.
    """
    try:
        return COSTS[name] if name in COSTS else find_metric(name)
    except ValueError:
        there = ", ".join((*METRICS, *COSTS))
        raise ValueError(f"is no objective; there are {there}, and module:function") from None
