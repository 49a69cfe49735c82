"""The instruction template: how a row becomes the prompt that a model sees.

The default follows Stanford Alpaca's headings (https://github.com/tatsu-lab/stanford_alpaca)
without its preamble, whose forty tokens every row would pay for.
"""

from __future__ import annotations

from collections.abc import Mapping

DEFAULT = "### Instruction:\n{instruction}\n\n### Response:\n"
DEFAULT_WITH_INPUT = "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"


def render_prompt(template: str | None, row: Mapping[str, str]) -> str:
    """The prompt of a row: everything before the response.

    Args:
        template: with the places ``{instruction}`` and, optionally, ``{input}``; None for
            the default, which leaves the input's heading out where a row has no input.
        row: ``instruction`` and, optionally, ``input``.
    """
    instruction, extra = row["instruction"], row.get("input") or ""
    if template is None:
        template = DEFAULT_WITH_INPUT if extra else DEFAULT
    elif extra and "{input}" not in template:
        instruction = f"{instruction}\n\n{extra}"
    # Plain replacement: a row's own braces are text, not places to fill.
    before, _, after = template.partition("{instruction}")
    return before.replace("{input}", extra) + instruction + after.replace("{input}", extra)
