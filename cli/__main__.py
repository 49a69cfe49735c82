"""``python -m tune_lora.cli``."""

from . import main

main()
