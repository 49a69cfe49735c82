"""From trial results to rankings, tables and model cards. Nothing here loads torch or Ray."""

from .card_facts import CardFacts, CardScores
from .leaderboard import Leaderboard, build, merge
from .loading import loading_code
from .model_card import model_card
from .render import to_csv, to_json, to_markdown, write
from .rows import Kind, Row
from .terminal import terminal_table
from .verdict import verdict

__all__ = [
    "CardFacts",
    "CardScores",
    "Kind",
    "Leaderboard",
    "Row",
    "build",
    "loading_code",
    "merge",
    "model_card",
    "terminal_table",
    "to_csv",
    "to_json",
    "to_markdown",
    "verdict",
    "write",
]
