"""A program: the trial of ``cut_trials`` with a checkpoint after every step, to be killed.

usage: killed.py MODEL PAIRS FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from cut_trials import OFTEN, load_tiny, resumed, tokenized
from tune_lora.trainer.folder import TrialFolder


def main() -> None:
    model, pairs, folder = map(Path, sys.argv[1:])
    torch.set_num_threads(1)
    base = load_tiny(model)
    resumed(TrialFolder(folder), base, tokenized(pairs, base), config=OFTEN)


if __name__ == "__main__":
    main()
