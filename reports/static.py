"""A report's figures as files for a paper or slides: on white, with large letters.

plotly draws in a browser, here too: kaleido starts the Chrome or Chromium that it finds, with
plotly's own script, and asks no network for anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import plotly.graph_objects as go
import plotly.io

from ..trainer.errors import TrialError, reason
from .drawing import Figure

_WIDTH, _HEIGHT = 960, 600
"""CSS pixels; at a column's width in print, letters are then about 8 points."""
_PANEL = 320
"""Width, at least, of each of several panels side by side."""
_PIXELS = 2
"""Of a PNG, per CSS pixel."""
_FONT = {"family": "Arial, Liberation Sans, Helvetica, sans-serif", "size": 18, "color": "black"}
_LINE = {"linecolor": "black", "gridcolor": "#dddddd", "showline": True, "ticks": "outside"}


Format = Literal["svg", "png", "pdf"]


def need_browser() -> None:
    """Look for what draws, before there is anything to draw.

    Raises:
        TrialError: kaleido or a browser is missing; the message says what to install.
    """
    try:
        from choreographer.browsers import Chromium
    except ImportError as error:
        raise TrialError(
            "figures as files need kaleido: pip install 'tune-lora[figures]'"
        ) from error
    browser = Chromium.find_browser(skip_local=False)
    if browser is None or not Path(browser).is_file():
        looked = f" (BROWSER_PATH is {browser})" if browser else ""
        raise TrialError(
            f"figures as files are drawn by Chrome or Chromium, and there is none{looked}: "
            "apt-get install chromium, or plotly_get_chrome, or set BROWSER_PATH"
        )


def write_figures(drawn: Sequence[Figure], folder: Path, form: Format) -> tuple[Path, ...]:
    """Write each figure to ``folder/NAME.FORM``; files of those names are replaced.

    Args:
        drawn: a report's figures.
        folder: made if it is missing.
        form: of the files.

    Returns:
        The files, in the order of ``drawn``.

    Raises:
        TrialError: the browser is missing or fails. Nothing is written then.
    """
    need_browser()
    images = asyncio.run(_images(map(for_print, drawn), form))
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{figure.name}.{form}" for figure in drawn]
    for path, image in zip(paths, images, strict=True):
        part = path.with_name(f".{path.name}.part")
        part.write_bytes(image)
        part.replace(path)
    return tuple(paths)


def for_print(drawn: Figure) -> go.Figure:
    """The figure in black on white, in the size of a file."""
    figure = go.Figure(drawn.figure)
    panels = sum(1 for _ in figure.select_xaxes())
    figure.update_layout(
        template=plotly.io.templates["plotly_white"],
        font=_FONT,
        width=max(_WIDTH, _PANEL * panels),
        height=_HEIGHT,
        margin={"l": 80, "r": 30, "t": 40, "b": 80},
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
    )
    for axis in (*figure.select_xaxes(), *figure.select_yaxes()):
        # plotly's own way of writing 1e-4 is 100µ. What a figure says of its axis stays.
        axis.update(automargin=True, exponentformat="power")
        axis.update({key: value for key, value in _LINE.items() if axis[key] is None})
    return figure


async def _images(figures: Iterable[go.Figure], form: Format) -> list[bytes]:
    import kaleido
    from kaleido.errors import BrowserClosedError, BrowserFailedError, JavascriptError, KaleidoError

    options = {"format": form, "scale": _PIXELS if form == "png" else 1}
    try:
        # Its default fetches MathJax from a server, for formulas that no figure here has.
        async with kaleido.Kaleido(mathjax=False) as browser:
            return [await browser.calc_fig(figure, opts=options) for figure in figures]
    except (BrowserClosedError, BrowserFailedError) as error:
        raise TrialError(f"the browser that draws figures failed: {reason(error)}") from error
    except (JavascriptError, KaleidoError, TimeoutError) as error:
        raise TrialError(f"a figure could not be drawn: {reason(error)}") from error
