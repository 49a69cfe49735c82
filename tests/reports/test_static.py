"""Figures as files: what is asked of the browser, what it makes, and what is said without one."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

import plotly.graph_objects as go
import pytest
from browser import needs_chromium
from tune_lora.reports.drawing import Figure
from tune_lora.reports.static import Format, for_print, need_browser, write_figures
from tune_lora.trainer.errors import TrialError

MAGIC = {"svg": b"<svg", "png": b"\x89PNG", "pdf": b"%PDF"}


def drawn(name: str = "learning-curves", panels: int = 1) -> Figure:
    figure = go.Figure(go.Scatter(x=[3, 9, 27], y=[2.5, 1.25, 0.625], name="best: trial-0011"))
    figure.update_layout(xaxis_title="optimizer step", yaxis_title="eval_loss, nats")
    for place in range(2, panels + 1):
        figure.update_layout({f"xaxis{place}": {"title": "r", "ticks": ""}})
    return Figure(name, "Learning curves", "Seen.", figure)


def test_figures_are_black_on_white_and_the_pages_stays_as_it_is() -> None:
    page = drawn(panels=5)
    before = page.figure.to_json()
    figure = for_print(page)
    assert page.figure.to_json() == before
    assert figure.layout.template.layout.plot_bgcolor == "white"
    assert figure.layout.template.layout.paper_bgcolor == "white"
    assert figure.layout.font.color == "black"
    assert figure.layout.font.size >= 16
    assert figure.layout.width / 5 >= 300
    # What a figure says of an axis itself is not overruled.
    assert figure.layout.xaxis.ticks == "outside"
    assert figure.layout.xaxis5.ticks == ""


def test_without_kaleido_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "choreographer.browsers", None)
    with pytest.raises(TrialError, match=r"pip install 'tune-lora\[figures\]'"):
        need_browser()


def test_without_a_browser_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    browsers = pytest.importorskip("choreographer.browsers")
    monkeypatch.setattr(browsers.Chromium, "find_browser", lambda **_: None)
    with pytest.raises(TrialError, match=r"and there is none: apt-get install chromium"):
        write_figures([drawn()], tmp_path / "figures", "svg")
    assert not (tmp_path / "figures").exists()
    monkeypatch.setattr(browsers.Chromium, "find_browser", lambda **_: str(tmp_path / "gone"))
    with pytest.raises(TrialError, match=r"BROWSER_PATH is .*/gone"):
        need_browser()


@needs_chromium
@pytest.mark.parametrize("form", MAGIC)
def test_every_figure_is_a_file(tmp_path: Path, form: Format) -> None:
    pytest.importorskip("kaleido")
    folder = tmp_path / "new" / "figures"
    paths = write_figures([drawn(), drawn("importance")], folder, form)
    assert paths == (folder / f"learning-curves.{form}", folder / f"importance.{form}")
    assert sorted(folder.iterdir()) == sorted(paths)
    for path in paths:
        assert path.read_bytes().startswith(MAGIC[form])
    if form == "svg":
        words = "".join(ElementTree.fromstring(paths[0].read_text("utf-8")).itertext())
        assert "optimizer step" in words
        assert "eval_loss, nats" in words


@needs_chromium
def test_a_browser_that_fails_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    browsers = pytest.importorskip("choreographer.browsers")
    monkeypatch.setattr(browsers.Chromium, "find_browser", lambda **_: "/bin/false")
    with pytest.raises(TrialError, match="the browser that draws figures failed"):
        write_figures([drawn()], tmp_path / "figures", "svg")
    assert not (tmp_path / "figures").exists()
