"""``tune-lora dashboard``: optuna-dashboard on a run's study, while the search runs or after."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("dashboard")(dashboard)


def dashboard(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8080,
) -> None:
    """Serve optuna-dashboard on a run's study (pip install 'tune-lora[dashboard]')."""
    from ..trainer.errors import TrialError
    from ..trainer.folder import RunFolder

    folder = RunFolder.open(run)
    if not folder.study.is_file():
        raise TrialError(f"{folder.study}: there is no study yet")
    beside = Path(sys.executable).with_name("optuna-dashboard")
    program = str(beside) if beside.is_file() else shutil.which("optuna-dashboard")
    if program is None:
        raise TrialError("optuna-dashboard is not installed: pip install 'tune-lora[dashboard]'")
    command = [program, f"sqlite:///{folder.study}", "--host", host, "--port", str(port)]
    raise typer.Exit(subprocess.run(command, check=False).returncode)
