"""The command line: one file a verb, nothing but arguments in, calls down, tables out.

Exit codes: 0 done, 1 a trial or a file failed, 2 the input is wrong, 130 interrupted.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import warnings
from typing import NoReturn

import typer

from ..spaces import SpaceError
from ..trainer.errors import TrialError
from . import (
    compare,
    confirm,
    dashboard,
    doctor,
    export,
    generate,
    init,
    leaderboard,
    plan,
    report,
    schema,
    search,
    validate,
    watch,
)

app = typer.Typer(
    name="tune-lora",
    help="Search r, alpha, target modules and learning rate of LoRA and QLoRA fine-tunes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for verb in (
    search,
    leaderboard,
    report,
    compare,
    watch,
    confirm,
    dashboard,
    export,
    generate,
    init,
    validate,
    plan,
    schema,
    doctor,
):
    verb.register(app)


@app.callback()
def _common(
    verbose: bool = typer.Option(False, "--verbose", "-v", help="Log what happens inside."),
) -> None:
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s" if verbose else "%(message)s",
    )
    if not verbose:
        _quieten()


def _quieten() -> None:
    """Keep libraries' progress bars and advice out of the tables; errors still show."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for library in ("TRANSFORMERS", "HF_HUB", "DATASETS"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")
    libraries = r"(transformers|peft|bitsandbytes|torch|optuna|accelerate)(\.|$)"
    warnings.filterwarnings("ignore", module=libraries)
    for name in ("bitsandbytes", "transformers", "datasets", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)


def main() -> None:
    """Run the command line; always raises ``SystemExit``."""
    try:
        app()
    except SpaceError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except TrialError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def console_main() -> NoReturn:
    """The entry point ``tune-lora``: ``main``, and then the process ends at once.

    Once torch and transformers were imported, Python takes two seconds to free, object by object,
    what the kernel frees anyway (mypy ends likewise: ``mypy.util.hard_exit``).
    """
    code: str | int | None = 0
    try:
        main()
    except SystemExit as error:
        code = error.code
    if isinstance(code, str):
        print(code, file=sys.stderr)
        code = 1
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)
