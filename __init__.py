"""tune-lora: hyperparameter search for LoRA and QLoRA fine-tuning.

The repository root *is* this package, so that the top-level folders are its rooms:
``spaces`` (what a user writes), ``trainer`` (one trial), ``reports`` (what came of it),
``search`` (many trials) and ``cli`` (one file a verb). A room imports only from the rooms
named before it.
"""

__version__ = "0.1.0"
