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
        paths: each row's nodes, in its order, ``[tokens of the row]``.
        shared: how many of them, the first, each row has from the one before it in the tree.
    """

    tokens: torch.Tensor
    depths: torch.Tensor
    paths: tuple[torch.Tensor, ...]
    shared: tuple[int, ...]

    def sees(self) -> torch.Tensor:
        """Which node attends to which: ``[nodes, nodes]``, bool."""
        found = torch.zeros(len(self.tokens), len(self.tokens), dtype=torch.bool)
        for path, shared in zip(self.paths, self.shared, strict=True):
            new = path[shared:]
            found[new[:, None], path[None, :]] = torch.ones(len(new), len(path)).tril(shared).bool()
        return found


def trie(rows: Sequence[list[int]]) -> Trie:
    """The tree of token ids in ``rows``, on the CPU."""
    tokens: list[int] = []
    depths: list[int] = []
    paths: list[list[int]] = [[]] * len(rows)
    shares = [0] * len(rows)
    known: list[int] = []
    path: list[int] = []
    # Of rows in order, each shares most with the one before it.
    for place in sorted(range(len(rows)), key=lambda place: rows[place]):
        row = rows[place]
        shared = _alike(known, row)
        path = [*path[:shared], *range(len(tokens), len(tokens) + len(row) - shared)]
        tokens += row[shared:]
        depths += range(shared, len(row))
        known, paths[place], shares[place] = row, path, shared
    return Trie(
        torch.tensor(tokens, dtype=torch.long),
        torch.tensor(depths, dtype=torch.long),
        tuple(torch.tensor(path, dtype=torch.long) for path in paths),
        tuple(shares),
    )


def _alike(left: Sequence[int], right: Sequence[int]) -> int:
    """The length of what both begin with."""
    for place, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return place
    return min(len(left), len(right))
