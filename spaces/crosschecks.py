"""Checks that take more than one key: ratios, conditional values, rungs, formats, templates."""

from __future__ import annotations

import math
import string
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import product

from .blocks import DataBlock, ModelBlock, SearchBlock
from .domains import Choice, Ratio, Value, numbers
from .errors import MISSING, FaultLog, KeyPath
from .formats import CLASSIFIERS, FORMATS, formats_of
from .metrics import COSTS, METRICS, find_metric, find_objective
from .nearest import nearest
from .rules import BOUNDS
from .sampling import conditional, finish, parameters
from .schedulers import PBT_CHANGES, PbtScheduler, SchedulerBlock

SEVERAL = ("tpe", "gp", "random", "grid", "qmc")
"""Samplers that take several objectives: of Optuna's all but CMA-ES."""


def check_values(values: Mapping[str, Value], failed: Collection[str], log: FaultLog) -> None:
    """Check conditional values and ratios.

    Args:
        values: Of both blocks, by dotted key.
        failed: Keys that are given but already have faults of their own.
        log: Receives the faults.
    """
    _check_conditions(values, log)
    variants: dict[str, list[Value]] = {key: [value] for key, value in values.items()}
    for _, _, name, value in _given(values):
        variants.setdefault(name, []).append(value)
    for key, value in values.items():
        if isinstance(value, Ratio):
            _check_ratio(key, value, _path(key), variants, values, failed, log)
    for owner, index, key, value in _given(values):
        if isinstance(value, Ratio):
            path = (*_path(owner), "choice", index, "with", key)
            _check_ratio(key, value, path, variants, values, failed, log)


def check_data(data: DataBlock, log: FaultLog) -> None:
    """Check roles, template and the shares of the splits."""
    roles = FORMATS[data.format].roles
    for role in data.fields:
        if role not in roles:
            rule = f"unknown role: data of format {data.format} has {', '.join(roles)}"
            log.add(("data", "fields", role), data.fields[role], rule, nearest(role, roles))
    if data.template is not None:
        _check_template(data, log)
    shares = [part for part in (data.validation, data.test) if isinstance(part, float | int)]
    if len(shares) == 2 and sum(shares) >= 1:
        rule = f"must leave rows to train on: with data.test = {data.test} nothing is left"
        log.add(("data", "validation"), data.validation, rule)


def check_task(model: ModelBlock, data: DataBlock, log: FaultLog) -> None:
    """Check that the data's format, and a general text, suit the model's task."""
    valid = formats_of(model.task)
    if data.format not in valid:
        wanted = ("one of " if len(valid) > 1 else "") + ", ".join(valid)
        other = " or ".join(FORMATS[data.format].tasks)
        rule = f"must be {wanted} for model.task {model.task} (this one is for {other})"
        log.add(("data", "format"), data.format, rule)
    if data.general is not None and model.task != "CAUSAL_LM":
        rule = f"is for model.task CAUSAL_LM: {model.task} has no loss on plain text; leave it out"
        log.add(("data", "general"), data.general.source, rule)
    if model.num_labels is not None and model.task not in CLASSIFIERS:
        rule = "is for model.task SEQ_CLS and TOKEN_CLS only"
        log.add(("model", "num_labels"), model.num_labels, rule)


def check_scheduler(
    scheduler: SchedulerBlock | None, values: Mapping[str, Value], log: FaultLog
) -> None:
    """Check that its first rung is not past the horizon, and that `pbt` has something to change.

    Args:
        scheduler: Of the search.
        values: Of both blocks, by dotted key.
        log: Receives the faults.
    """
    horizon = values.get("train.max_steps")
    if scheduler is None or not isinstance(horizon, int):
        return
    for key in ("grace_steps", "interval_steps"):
        steps = getattr(scheduler, key, None)
        if steps is not None and steps > horizon:
            rule = f"must be at most train.max_steps, which is {horizon}"
            log.add(("search", "scheduler", scheduler.word, key), steps, rule)
    if isinstance(scheduler, PbtScheduler):
        names = {parameter.name.split("@")[0] for parameter in parameters(values)}
        if not names & set(PBT_CHANGES):
            rule = f"needs a domain for one of {', '.join(PBT_CHANGES)}: nothing else changes in it"
            log.add(("search", "scheduler"), scheduler.word, rule)


def check_metrics(search: SearchBlock, model: ModelBlock, data: DataBlock, log: FaultLog) -> None:
    """Check that the metrics exist, and suit the model's task and the data."""
    classifies = model.task in CLASSIFIERS
    several = isinstance(search.metric, list)
    if several:
        _check_objectives(search, log)
    named = [("metric", name) for name in search.objectives]
    named += [("metrics", name) for name in search.metrics]
    for key, name in named:
        path, beside = ("search", key), several and key == "metric"
        if name in COSTS and not beside:
            rule = f"is an objective beside a metric only: write search.metric: [eval_loss, {name}]"
            log.add(path, name, rule)
            continue
        try:
            source = (find_objective if beside else find_metric)(name).source
        except ValueError as error:
            log.add(path, name, str(error), _metrics_like(name, COSTS if beside else ()))
            continue
        if source == "answers" and classifies:
            log.add(path, name, f"is of generated answers, and model.task {model.task} gives none")
        if source == "classes" and not classifies:
            log.add(path, name, f"is of classes, and model.task {model.task} has none")
        if source == "general" and data.general is None:
            log.add(path, name, "is of a general text, and there is none: name it (data.general)")


def _check_objectives(search: SearchBlock, log: FaultLog) -> None:
    names, path = search.objectives, ("search", "metric")
    if len(set(names)) not in (2, 3) or len(set(names)) < len(names):
        log.add(path, list(names), "must be one metric, or a list of two or three different ones")
    if names and names[0] in COSTS:
        rule = (
            f"cannot begin with {names[0]}: the first decides while trials train, when that is not "
            "known; put a metric before it"
        )
        log.add(path, list(names), rule)
    if search.sampler not in SEVERAL:
        rule = (
            f"takes one objective, and search.metric names {len(names)}; use {', '.join(SEVERAL)}"
        )
        log.add(("search", "sampler"), search.sampler, rule)


def _metrics_like(name: str, further: Iterable[str]) -> tuple[str, ...]:
    known = {metric.lower(): metric for metric in (*METRICS, *further)}
    return tuple(known[word] for word in nearest(name.lower().replace("-", ""), known))


def check_confirm(search: SearchBlock, log: FaultLog) -> None:
    """Check that what is confirmed can be trained again, and exported afterwards."""
    confirm = search.confirm
    if confirm is None:
        return
    if isinstance(search.scheduler, PbtScheduler):
        rule = "cannot be with pbt: its trials change configurations as they go; use another one"
        log.add(("search", "confirm"), MISSING, rule)
    if confirm.top > search.keep_adapters:
        rule = (
            f"must be at most search.keep_adapters, which is {search.keep_adapters}: the weights "
            "of others are deleted, and one of these is to be exported"
        )
        log.add(("search", "confirm", "top"), confirm.top, rule)


def check_quantization(model: ModelBlock, log: FaultLog) -> None:
    """Check that how nf4 weights are computed with is only said where there are any."""
    if model.quantization == "none" and model.quantization_compute != "auto":
        path = ("model", "quantization_compute")
        log.add(
            path, model.quantization_compute, "is for model.quantization nf4 only; leave it out"
        )


def _path(key: str) -> KeyPath:
    return tuple(key.split(".", 1))


def _given(values: Mapping[str, Value]) -> Iterator[tuple[str, int, str, Value]]:
    """Owner, option's index, key and value of every value that an option brings."""
    for owner, choice in values.items():
        if isinstance(choice, Choice):
            for index, option in enumerate(choice.options):
                for key, value in option.given.items():
                    yield owner, index, key, value


def _check_conditions(values: Mapping[str, Value], log: FaultLog) -> None:
    owners: dict[str, str] = {}
    for owner, index, key, _ in _given(values):
        path = (*_path(owner), "choice", index, "with", key)
        if conditional(values.get(key)):
            log.add(path, MISSING, f"cannot be given here: options of {key} have a with themselves")
        if owners.setdefault(key, owner) != owner:
            rule = f"is given by {owners[key]} too: only one choice may decide it"
            log.add(path, MISSING, rule)


def _check_ratio(
    key: str,
    ratio: Ratio,
    path: KeyPath,
    variants: Mapping[str, list[Value]],
    values: Mapping[str, Value],
    failed: Collection[str],
    log: FaultLog,
) -> None:
    here = (*path, "ratio_of")
    if ratio.of in failed:
        return
    if ratio.of not in values or ratio.of == key:
        others = [name for name in values if name != key]
        rule = "names no other key that has a value in every trial"
        log.add(here, ratio.of, rule, nearest(ratio.of, others))
        return
    try:
        scales = [number for value in variants[ratio.of] for number in numbers(value)]
    except ValueError as error:
        log.add(here, ratio.of, f"{ratio.of} {error}")
        return
    bounds = BOUNDS.get(key)
    for scale, factor in product(scales, numbers(ratio.domain)):
        result = finish(key, scale * factor)
        if not math.isfinite(result):
            log.add(path, MISSING, f"is too large for {ratio.of} = {scale:g}")
            return
        if bounds and not bounds.holds(result):
            rule = f"{bounds.describe()}, but is {result:g} for {ratio.of} = {scale:g}"
            log.add(path, MISSING, rule)
            return


def _check_template(data: DataBlock, log: FaultLog) -> None:
    path = ("data", "template")
    try:
        parts = list(string.Formatter().parse(data.template or ""))
    except ValueError as error:
        log.add(path, data.template, f"is not a template: {error}; write {{{{ for a brace")
        return
    names = {name for _, name, _, _ in parts if name is not None}
    if data.format != "instruction":
        log.add(path, data.template, "is for data.format instruction only")
        return
    if unknown := sorted(names - {"instruction", "input"}):
        log.add(path, data.template, f"may hold {{instruction}} and {{input}}, not {unknown}")
    if "instruction" not in names:
        log.add(path, data.template, "must hold {instruction}")
    if any(spec or conversion for _, _, spec, conversion in parts):
        log.add(path, data.template, "takes {instruction} and {input} as they stand, unformatted")
