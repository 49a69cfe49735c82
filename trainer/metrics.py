"""Metrics beyond the loss, of validation rows.

Exact match, BLEU (sacrebleu, https://aclanthology.org/W18-6319), ROUGE (rouge-score, Google's
implementation of https://aclanthology.org/W04-1013), validity and field F1 of JSON; accuracy and
macro F1 of classes (scikit-learn); and functions of the user's own.
"""

from __future__ import annotations

import importlib
import json
import math
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from ..spaces import SpaceError
from ..spaces.metrics import find_metric
from .answers import answers, classes, question
from .base import CLASSIFIERS, BaseModel

Texts: TypeAlias = Sequence[str]
Own: TypeAlias = Callable[[list[str], list[str], list[dict[str, str]]], float]


@dataclass(frozen=True)
class Measures:
    """What is measured besides the loss, as plain data.

    Attributes:
        names: of the metrics, without the loss's own.
        rows: validation rows, the first, that answers are generated for.
        max_new_tokens: of an answer, at most.
        batch_size: answers at a time.
        folder: where a module of the user's own may be.
    """

    names: tuple[str, ...] = ()
    rows: int = 64
    max_new_tokens: int = 128
    batch_size: int = 8
    folder: str = ""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Measures:
        """The inverse of ``dataclasses.asdict``."""
        return cls(**{**data, "names": tuple(data["names"])})


def measured(
    model: Any, base: BaseModel, rows: Any, measures: Measures, eval_batch: int
) -> dict[str, float]:
    """The metrics of rows, by name; one that is not finite is left out.

    Args:
        model: ``base.model``, or that model wearing an adapter.
        base: lent.
        rows: tokenized, of any length.
        measures: what to compute; nothing is generated for nothing.
        eval_batch: rows a forward pass of a classifier.
    """
    if not measures.names:
        return {}
    if base.spec.task in CLASSIFIERS:
        predictions, references = classes(model, base, rows, eval_batch)
        prompts = [""] * len(references)
        own = any(find_metric(name).source == "own" for name in measures.names)
        if own and base.spec.task == "SEQ_CLS":
            prompts = base.tokenizer.batch_decode(rows["input_ids"], skip_special_tokens=True)
    else:
        asked = [question(row, base) for row in rows.select(range(min(measures.rows, len(rows))))]
        predictions = answers(
            model,
            base,
            [each.prompt for each in asked],
            max_new_tokens=measures.max_new_tokens,
            batch_size=measures.batch_size,
        )
        references = [each.reference for each in asked]
        prompts = base.tokenizer.batch_decode(
            [list(each.prompt) for each in asked], skip_special_tokens=True
        )
    found = {
        name: _compute(name, predictions, references, prompts, measures.folder)
        for name in measures.names
    }
    return {name: value for name, value in found.items() if math.isfinite(value)}


def own_metric(name: str, folder: str, key: str = "search.metrics") -> Own:
    """A metric of the user's own, ``module:function``.

    It is called with predictions, references and rows (``prompt``, ``prediction``, ``reference``
    each) and returns a number, of which larger is better.

    Args:
        name: as in the space.
        folder: where the module may be, besides what Python finds by itself.
        key: of the space, for the error.

    Raises:
        SpaceError: it cannot be imported, or is no function.
    """
    module, _, function = name.partition(":")
    at_hand = folder in sys.path
    if not at_hand:
        sys.path.append(folder)
    try:
        found = getattr(importlib.import_module(module), function)
    except AttributeError:
        raise SpaceError.single(key, name, f"{module} has no {function}") from None
    except Exception as error:
        rule = f"cannot be imported ({type(error).__name__}: {error}); looked in {Path(folder)} too"
        raise SpaceError.single(key, name, rule) from error
    finally:
        if not at_hand:
            sys.path.remove(folder)
    if not callable(found):
        raise SpaceError.single(key, name, "is no function")
    return found  # type: ignore[no-any-return]


def _compute(name: str, predicted: Texts, references: Texts, prompts: Texts, folder: str) -> float:
    if name in _OF_TEXTS:
        return _OF_TEXTS[name](predicted, references) if references else math.nan
    rows = [
        {"prompt": prompt, "prediction": prediction, "reference": reference}
        for prompt, prediction, reference in zip(prompts, predicted, references, strict=True)
    ]
    return float(own_metric(name, folder)([*predicted], [*references], rows))


def exact_match(predicted: Texts, references: Texts) -> float:
    """The share of answers that are the reference, white space around them aside."""
    pairs = zip(predicted, references, strict=True)
    return statistics.fmean(one.strip() == other.strip() for one, other in pairs)


def bleu(predicted: Texts, references: Texts) -> float:
    """sacrebleu's corpus BLEU with its default tokenizer, from 0 to 100."""
    import sacrebleu

    return float(sacrebleu.corpus_bleu([*predicted], [[*references]]).score)


def _rouge(kind: str) -> Callable[[Texts, Texts], float]:
    def mean(predicted: Texts, references: Texts) -> float:
        """The mean F-measure, with Porter's stemmer."""
        from rouge_score.rouge_scorer import RougeScorer

        scorer = RougeScorer([kind], use_stemmer=True)
        pairs = zip(predicted, references, strict=True)
        return statistics.fmean(scorer.score(right, made)[kind].fmeasure for made, right in pairs)

    return mean


def json_valid(predicted: Texts, references: Texts) -> float:
    """The share of answers that are JSON."""
    return statistics.fmean(_parsed(text) is not _INVALID for text in predicted)


def json_f1(predicted: Texts, references: Texts) -> float:
    """F1 of fields, over all rows together (micro).

    A field is a leaf of the reference's JSON: its path and its value, both of which have to be
    right. An answer that is no JSON has none.
    """
    right = made = wanted = 0
    for one, other in zip(predicted, references, strict=True):
        have, need = _fields(_parsed(one)), _fields(_parsed(other))
        right += len(have & need)
        made, wanted = made + len(have), wanted + len(need)
    return 2 * right / (made + wanted) if made + wanted else math.nan


def accuracy(predicted: Texts, references: Texts) -> float:
    """The share of rows whose class is right."""
    from sklearn.metrics import accuracy_score

    return float(accuracy_score([*references], [*predicted]))


def macro_f1(predicted: Texts, references: Texts) -> float:
    """F1 of each class, and of these the mean."""
    from sklearn.metrics import f1_score

    return float(f1_score([*references], [*predicted], average="macro", zero_division=0.0))


_INVALID = object()


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return _INVALID


def _fields(value: Any, path: tuple[str | int, ...] = ()) -> set[tuple[Any, ...]]:
    if value is _INVALID:
        return set()
    inside: Iterator[tuple[str | int, Any]] | None = None
    if isinstance(value, dict) and value:
        inside = iter(value.items())
    elif isinstance(value, list) and value:
        inside = iter(enumerate(value))
    if inside is None:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return {(*path, float(value) if number else json.dumps(value))}
    return set().union(*(_fields(item, (*path, key)) for key, item in inside))


_OF_TEXTS: Mapping[str, Callable[[Texts, Texts], float]] = {
    "exact_match": exact_match,
    "bleu": bleu,
    "rouge1": _rouge("rouge1"),
    "rouge2": _rouge("rouge2"),
    "rougeL": _rouge("rougeL"),
    "json_valid": json_valid,
    "json_f1": json_f1,
    "accuracy": accuracy,
    "f1": macro_f1,
}
