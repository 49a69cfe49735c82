"""Exports on their way to the hub: asked first, uploaded last, the token nowhere to be seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import huggingface_hub
import pytest
from huggingface_hub import constants
from tune_lora.search.push import HubTarget, hub_target
from tune_lora.trainer.errors import TrialError

TOKEN = "hf_ThisIsTheSecretOne"


class FakeHub:
    """``HfApi`` without a hub."""

    calls: ClassVar[list[tuple[str, dict[str, Any]]]] = []
    user: ClassVar[dict[str, Any]] = {}
    fails: ClassVar[dict[str, Exception]] = {}

    def __init__(self, token: str) -> None:
        assert token == TOKEN

    def whoami(self) -> dict[str, Any]:
        self._note("whoami")
        return self.user

    def create_repo(self, repo_id: str, **options: Any) -> str:
        self._note("create_repo", repo_id=repo_id, **options)
        return f"https://hub.test/{repo_id}"

    def upload_folder(self, **options: Any) -> None:
        self._note("upload_folder", **options)

    def _note(self, name: str, **options: Any) -> None:
        self.calls.append((name, options))
        if name in self.fails:
            raise self.fails[name]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> type[FakeHub]:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(huggingface_hub, "HfApi", FakeHub)
    FakeHub.calls, FakeHub.fails = [], {}
    FakeHub.user = {"name": "me", "auth": {"accessToken": {"role": "write"}}}
    return FakeHub


@pytest.mark.parametrize(("given", "repo"), [("best", "me/best"), ("they/best", "they/best")])
def test_a_known_user(hub: type[FakeHub], given: str, repo: str) -> None:
    assert hub_target(given, private=True) == HubTarget(repo, private=True)
    assert [name for name, _ in hub.calls] == ["whoami"]


def test_upload(hub: type[FakeHub], tmp_path: Path) -> None:
    assert HubTarget("me/best", private=True).push(tmp_path) == "https://hub.test/me/best"
    (made, repo), (uploaded, files) = hub.calls
    assert (made, repo) == (
        "create_repo",
        {"repo_id": "me/best", "private": True, "exist_ok": True},
    )
    assert uploaded == "upload_folder"
    assert (files["repo_id"], files["folder_path"]) == ("me/best", tmp_path)


@pytest.mark.parametrize("name", ["a/b/c", "two words", "me/--", "", "me/x.git"])
def test_no_id(hub: type[FakeHub], name: str) -> None:
    with pytest.raises(TrialError, match=r"is no id of a repository \(owner/name\)"):
        hub_target(name, private=False)
    assert hub.calls == []


def test_no_token(hub: type[FakeHub], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(TrialError, match=r"no token; run `hf auth login`, or set HF_TOKEN"):
        hub_target("me/best", private=False)
    assert hub.calls == []


def test_a_token_that_may_only_read(hub: type[FakeHub]) -> None:
    hub.user = {"name": "me", "auth": {"accessToken": {"role": "read"}}}
    with pytest.raises(TrialError, match="the token may only read; make one that may write"):
        hub_target("me/best", private=False)


@pytest.mark.parametrize("step", ["create_repo", "upload_folder"])
def test_a_broken_upload_says_how_to_go_on(hub: type[FakeHub], tmp_path: Path, step: str) -> None:
    hub.fails = {step: OSError(f"broken pipe\nauthorization: Bearer {TOKEN}")}
    with pytest.raises(TrialError) as raised:
        HubTarget("me/best", private=False).push(tmp_path)
    said = str(raised.value)
    assert "the hub did not take it: broken pipe authorization: Bearer ***" in said
    assert f"hf upload me/best {tmp_path}" in said
    assert TOKEN not in said


@pytest.mark.parametrize("offline", [True, False])
def test_a_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch, offline: bool) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    # Nothing listens there.
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    huggingface_hub.close_session()
    try:
        with pytest.raises(TrialError, match="me/best: the hub cannot be reached: ") as raised:
            hub_target("me/best", private=False)
    finally:
        huggingface_hub.close_session()
    assert TOKEN not in str(raised.value)


def test_a_token_that_the_hub_does_not_know(hub: type[FakeHub]) -> None:
    import httpx
    from huggingface_hub.errors import HfHubHTTPError

    response = httpx.Response(401, request=httpx.Request("GET", "https://hub.test"))
    hub.fails = {"whoami": HfHubHTTPError(f"Invalid user token {TOKEN}", response=response)}
    with pytest.raises(TrialError, match="the hub refuses the token: Invalid user token") as raised:
        hub_target("me/best", private=False)
    assert TOKEN not in str(raised.value)
