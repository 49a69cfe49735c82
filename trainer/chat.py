"""Conversations: rendered with the tokenizer's own chat template, the assistant's turns supervised.

Which tokens are the assistant's is known by position. A template with ``{% generation %}`` marks
them itself; of any other, the row is rendered up to each of these turns, with the prompt that asks
for it, and up to its end. Both give places in the row's text, and each is proved on the tokens:
those of the text before it are the first of the row's, so that at generation, too, the model sees
what it was trained on. A row for which that does not hold is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jinja2

from .shapes import RowError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = Mapping[str, Any]

NO_TEMPLATE = (
    "needs a chat template, and the model's tokenizer has none: take a model that was tuned to "
    "chat (-Instruct, -it), put a chat_template.jinja into the model's folder, or write "
    "data.format instruction or completion"
)
"""What is wrong with a model for ``data.format: chat``, and the remedy."""

_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")
_ONE_BY_ONE = "give each answer as the last message of a row of its own"
_REMEDY = f"{_ONE_BY_ONE}, or take a template with {{% generation %}} marks"


def prompt_of(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """The tokens of a conversation and of the prompt for the assistant's next turn."""
    return _ids(tokenizer, _rendered(tokenizer, messages, asks=True))


def chat_tokens(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]
) -> tuple[list[int], list[bool]]:
    """The tokens of a conversation, and which of them the model is to learn to say.

    Args:
        tokenizer: one with a chat template.
        messages: ``role`` and ``content`` each.

    Returns:
        Token ids and, of equal length, whether each is the assistant's: its turns, with the token
        that ends them, but not the header in front nor what separates it from the next turn.

    Raises:
        RowError: the template refuses the conversation, or renders a turn otherwise once others
            follow, or a token reaches over the border of a turn.
    """
    text = _rendered(tokenizer, messages)
    ids = _ids(tokenizer, text)
    marked = _marked(tokenizer, messages)
    spans = _turns(tokenizer, messages, text) if marked is None else marked
    ends = _special(tokenizer)
    mask = [False] * len(ids)
    for begin, end in spans:
        first, last = (_border(tokenizer, text[:place], ids) for place in (begin, end))
        if marked is None:
            last = _trimmed(tokenizer, ids, first, last, ends)
        elif last < len(ids) and ids[last] == tokenizer.eos_token_id != ids[last - 1]:
            # Some templates leave the end token out of their marks.
            last += 1
        mask[first:last] = [True] * (last - first)
    return ids, mask


def _rendered(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, asks: bool = False
) -> str:
    try:
        text = tokenizer.apply_chat_template(
            [dict(message) for message in messages], tokenize=False, add_generation_prompt=asks
        )
    except (jinja2.TemplateError, TypeError, ValueError) as error:
        raise RowError(f"are refused by the chat template ({error})", "mend them") from error
    return str(text)


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _marked(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]
) -> list[tuple[int, int]] | None:
    """Places in the text that the template marks; None where it marks none."""
    from transformers.utils.chat_template_utils import render_jinja_template

    template = tokenizer.get_chat_template()
    if not _MARK.search(template):
        return None
    _, (spans,) = render_jinja_template(
        [[dict(message) for message in messages]],
        chat_template=template,
        return_assistant_tokens_mask=True,
        **tokenizer.special_tokens_map,
    )
    return [(int(begin), int(end)) for begin, end in spans if end > begin]


def _turns(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], text: str
) -> list[tuple[int, int]]:
    """Places in the text where the assistant's turns begin and end, headers left out."""
    spans = []
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = _rendered(tokenizer, messages[:index], asks=True)
        after = _rendered(tokenizer, messages[: index + 1])
        if not (text.startswith(after) and after.startswith(before) and len(before) < len(after)):
            said = "are rendered otherwise by the chat template when a turn is added to them"
            raise RowError(said, _REMEDY)
        spans.append((len(before), len(after)))
    return spans


def _border(tokenizer: PreTrainedTokenizerBase, before: str, ids: Sequence[int]) -> int:
    """How many of the row's tokens are those of the text before a place in it."""
    ahead = _ids(tokenizer, before)
    if list(ids[: len(ahead)]) != ahead:
        said = "have a token that reaches over the border of an assistant's turn"
        raise RowError(said, "a chat template that puts a special token there helps")
    return len(ahead)


def _special(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    added = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | set(tokenizer.all_special_ids)


def _trimmed(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], first: int, last: int, ends: set[int]
) -> int:
    """The end of a turn without the blanks that follow its end token."""
    found = [index for index in range(first, last) if ids[index] in ends]
    if found and not tokenizer.decode(ids[found[-1] + 1 : last]).strip():
        return found[-1] + 1
    return last
