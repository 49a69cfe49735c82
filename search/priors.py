"""Where a search starts: configurations that published measurements speak for.

In 548 published LoRA runs (tinker-cookbook's learning-rate sweeps over 18 models) the learning rate
mattered about five times more than the rank, the best lay between 2e-4 and 1e-3 for every model
but one (of which no run above 1e-4 is in the table), and a higher rank was never worse by more than
noise. Each prior is tried before the sampler has its say, as far as the space allows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..spaces import Choice, Constant, FloatRange, IntRange, Label, Parameter, Space

LEARNING_RATES = (3e-4, 1e-3, 2e-4)
"""In the order in which they are tried."""
_RANK = 64
"""Twice the rank gains less than 0.001 nats (0.004 in the smallest model), and costs more."""
_VALUES: Mapping[str, Constant] = {"lora.target_modules": "all-linear", "lora.lora_dropout": 0.0}
_SET = {"train.learning_rate", "lora.r"}
"""What makes a prior: no option may replace it."""


def prior_params(space: Space) -> list[dict[str, Label]]:
    """Parameters of the priors that lie within the space, by name; what they leave out is sampled.

    Conditional parameters are left to the sampler, and so is every field that the evidence says
    nothing about. Of a choice that brings its own learning rate or rank with an option, an option
    that brings none is taken, for else the prior's would go untried.
    """
    own = [parameter for parameter in space.parameters() if parameter.condition is None]
    rate = next((p for p in own if p.name == "train.learning_rate"), None)
    if rate is None:
        return []
    rest = {p.name: label for p in own if (label := _preferred(p)) is not None}
    found: list[dict[str, Label]] = []
    for learning_rate in LEARNING_RATES:
        label = _rate_label(rate, learning_rate)
        if label is not None:
            found.append({rate.name: label, **rest})
    return found


def _rate_label(parameter: Parameter, learning_rate: float) -> Label | None:
    domain = parameter.domain
    if isinstance(domain, FloatRange):
        return learning_rate if domain.holds(learning_rate) else None
    if isinstance(domain, Choice):
        return next((o.label for o in domain.options if o.value == learning_rate), None)
    return None


def _preferred(parameter: Parameter) -> Label | None:
    """The value that all priors share for this parameter; None where evidence is lacking."""
    domain = parameter.domain
    if parameter.name == "lora.r":
        return _rank(domain)
    if not isinstance(domain, Choice):
        return None
    plain = [o for o in domain.options if not o.given.keys() & _SET]
    if parameter.name in _VALUES:
        plain = [o for o in plain if o.value == _VALUES[parameter.name]]
    elif len(plain) == len(domain.options):
        return None
    return plain[0].label if plain else None


def _rank(domain: Choice | FloatRange | IntRange) -> Label | None:
    """The largest rank up to ``_RANK``, else the smallest."""
    if isinstance(domain, IntRange):
        most = max(domain.low, min(domain.high, _RANK))
        return most - (most - domain.low) % domain.step
    if not isinstance(domain, Choice):
        return None
    ranks: Sequence[tuple[float, Label]] = [
        (float(o.value), o.label) for o in domain.options if isinstance(o.value, int)
    ]
    below = [pair for pair in ranks if pair[0] <= _RANK]
    return (max(below) if below else min(ranks))[1] if ranks else None
