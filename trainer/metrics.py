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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ..spaces import SpaceError
from ..spaces.formats import CLASSIFIERS
from ..spaces.metrics import find_metric
from .answers import answers, classes, question
from .base import BaseModel
from .errors import TrialError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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
        general: whether the general text is scored at each evaluation, and not at the end alone.
    """

    names: tuple[str, ...] = ()
    rows: int = 64
    max_new_tokens: int = 128
    batch_size: int = 8
    folder: str = ""
    general: bool = False

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

    Raises:
        TrialError: a metric of the user's own raised, or gave no number.
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
        asked = [
            question(row, base.tokenizer, base.spec.task) for row in _first(rows, measures.rows)
        ]
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


def _first(rows: Any, count: int) -> Any:
    return rows.select(range(min(count, len(rows))))


def check_references(
    rows: Any,
    tokenizer: PreTrainedTokenizerBase,
    task: str,
    measures: Measures,
    key: str,
) -> None:
    """Check that ``json_f1``, if it is wanted, has fields to compare.

    Args:
        rows: tokenized validation rows.
        tokenizer: of the model.
        task: peft's task type.
        measures: what is wanted.
        key: of the space, for the error.

    Raises:
        SpaceError: no reference among the rows that are answered is JSON.
    """
    if "json_f1" not in measures.names:
        return
    asked = [question(row, tokenizer, task) for row in _first(rows, measures.rows)]
    if all(_parsed(each.reference) is _INVALID for each in asked):
        rule = (
            f"compares fields of JSON, and no response of the {len(asked)} validation rows that "
            f"are answered is JSON; the first, in tokens and back, is {asked[0].reference!r}"
        )
        raise SpaceError.single(key, "json_f1", rule)


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
    try:
        with _on_path(folder):
            imported = importlib.import_module(module)
    except Exception as error:
        rule = f"cannot be imported ({type(error).__name__}: {error}); looked in {Path(folder)} too"
        raise SpaceError.single(key, name, rule) from error
    found = getattr(imported, function, None)
    if found is None:
        place = getattr(imported, "__file__", None)
        where = f"{module} ({place})" if place else module
        raise SpaceError.single(key, name, f"{where} has no {function}")
    if not callable(found):
        raise SpaceError.single(key, name, "is no function")
    return found  # type: ignore[no-any-return]


@contextmanager
def _on_path(folder: str) -> Iterator[None]:
    """Modules in the folder can be imported, if nothing else has their name."""
    if folder in sys.path:
        yield
        return
    sys.path.append(folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _compute(name: str, predicted: Texts, references: Texts, prompts: Texts, folder: str) -> float:
    if name in _OF_TEXTS:
        return _OF_TEXTS[name](predicted, references) if references else math.nan
    rows = [
        {"prompt": prompt, "prediction": prediction, "reference": reference}
        for prompt, prediction, reference in zip(prompts, predicted, references, strict=True)
    ]
    own = own_metric(name, folder)
    try:
        # It may import more from beside it.
        with _on_path(folder):
            return float(own([*predicted], [*references], rows))
    except Exception as error:
        raise TrialError(f"{name} failed: {type(error).__name__}: {error}") from error


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
    """The JSON in the text; ``_INVALID`` where there is none."""
    try:
        # Python takes NaN and Infinity besides, which are not JSON.
        return json.loads(text, parse_constant=_refused)
    except (ValueError, RecursionError):
        # Also of brackets in brackets without an end, which models are given to.
        return _INVALID


def _refused(constant: str) -> Any:
    raise ValueError(constant)


def _fields(value: Any) -> set[tuple[Any, ...]]:
    """Path and value of every leaf; empty mappings and lists are leaves too."""
    found: set[tuple[Any, ...]] = set()
    left: list[tuple[tuple[str | int, ...], Any]] = [] if value is _INVALID else [((), value)]
    while left:
        path, item = left.pop()
        inside: Iterable[tuple[str | int, Any]] = ()
        if isinstance(item, dict):
            inside = item.items()
        elif isinstance(item, list):
            inside = enumerate(item)
        below = [((*path, key), deeper) for key, deeper in inside]
        left += below
        if not below:
            # 1 equals 1.0, and is not true, which Python takes for 1.
            number = isinstance(item, int | float) and not isinstance(item, bool)
            found.add((path, item if number else json.dumps(item)))
    return found


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
