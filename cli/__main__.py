"""``python -m tune_lora.cli``."""

from . import console_main

console_main()
