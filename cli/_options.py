"""Options that several verbs have."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

TrustRemoteCode: TypeAlias = Annotated[
    bool,
    typer.Option("--trust-remote-code", help="Run the model's own code, if its space says so."),
]
"""For verbs that load the model of a run or export, which may be someone else's."""
