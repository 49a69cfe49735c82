"""Rows that begin alike, as a tree: what they share goes through the model once.

Rows of one batch begin with the same template, system prompt or question. In a causal model the
hidden states of a token depend on the tokens before it and on nothing else, so that those of a
shared beginning are the same in every row, and so are, summed over the rows, their gradients. The
tokens are laid out as a trie in one row; each attends to its ancestors alone (tree attention, as in
speculative decoding: https://arxiv.org/abs/2305.09781), counted from its own row's beginning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Trie:
    """Rows as a tree of tokens.

    Attributes:
        tokens: ids, ``[nodes]``.
        depths: each one's place in its rows, from 0, ``[nodes]``.
        sees: which node attends to which, ``[nodes, nodes]``, bool.
        paths: each row's nodes, in its order, ``[tokens of the row]``.
    """

    tokens: torch.Tensor
    depths: torch.Tensor
    sees: torch.Tensor
    paths: tuple[torch.Tensor, ...]


def nodes(rows: Sequence[list[int]]) -> int:
    """How many tokens are left of rows when shared beginnings are there once."""
    ordered = sorted(rows)
    known: Sequence[int] = ()
    count = 0
    for row in ordered:
        count += len(row) - _alike(known, row)
        known = row
    return count


def trie(rows: Sequence[list[int]]) -> Trie:
    """The tree of token ids in ``rows``, on the CPU."""
    size = nodes(rows)
    tokens, depths = torch.empty(size, dtype=torch.long), torch.empty(size, dtype=torch.long)
    sees = torch.zeros(size, size, dtype=torch.bool)
    paths = [torch.empty(0, dtype=torch.long)] * len(rows)
    known: Sequence[int] = ()
    path = paths[0]
    made = 0
    # Of rows in order, each shares most with the one before it.
    for place in sorted(range(len(rows)), key=lambda place: rows[place]):
        row = rows[place]
        shared, whole = _alike(known, row), len(row)
        new = torch.arange(made, made + whole - shared)
        path = torch.cat([path[:shared], new])
        tokens[new] = torch.tensor(row[shared:], dtype=torch.long)
        depths[new] = torch.arange(shared, whole)
        ancestors = torch.ones(whole - shared, whole, dtype=torch.bool).tril(shared)
        sees[new[:, None], path[None, :]] = ancestors
        paths[place], known, made = path, row, made + whole - shared
    return Trie(tokens, depths, sees, tuple(paths))


def _alike(left: Sequence[int], right: Sequence[int]) -> int:
    """The length of what both begin with."""
    for place, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return place
    return min(len(left), len(right))
