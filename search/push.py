"""An export on its way to the Hugging Face hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..trainer.errors import TrialError


@dataclass(frozen=True)
class HubTarget:
    """A repository on the hub that answered and knows who is asking.

    Attributes:
        repo: its full id, ``owner/name``; it need not exist yet.
        private: whether to make it a private one, if it does not.
    """

    repo: str
    private: bool

    def push(self, folder: Path) -> str:
        """Upload a folder's files, and make the repository if need be.

        Returns:
            The repository's address.

        Raises:
            TrialError: the hub refuses, or the upload breaks off.
        """
        import huggingface_hub

        token = huggingface_hub.get_token()
        api = huggingface_hub.HfApi(token=token)
        try:
            url = api.create_repo(self.repo, private=self.private, exist_ok=True)
            api.upload_folder(
                repo_id=self.repo,
                folder_path=folder,
                commit_message="Upload a LoRA adapter found by tune-lora",
            )
        except Exception as error:
            # Whatever class of error: the hub's client passes on those of its HTTP library.
            raise TrialError(
                f"--push {self.repo}: the hub did not take it: {_said(error, token)}\n"
                f"The export is whole; to try again: hf upload {self.repo} {folder}"
            ) from None
        return str(url)


def hub_target(repo_id: str, *, private: bool) -> HubTarget:
    """Ask the hub, before any work, whether it is there and knows the user's token.

    Args:
        repo_id: ``owner/name``, or a name among the user's own.
        private: see ``HubTarget``.

    Raises:
        TrialError: the id is none, there is no token, the hub cannot be reached or refuses the
            token, or the token may only read.
    """
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    where = f"--push {repo_id}"
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise TrialError(f"{where}: is no id of a repository (owner/name): {error}") from error
    token = huggingface_hub.get_token()
    if token is None:
        raise TrialError(f"{where}: there is no token; run `hf auth login`, or set HF_TOKEN")
    try:
        user: dict[str, Any] = huggingface_hub.HfApi(token=token).whoami()
    except Exception as error:
        refused = isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403)
        rule = "refuses the token" if refused else "cannot be reached"
        raise TrialError(f"{where}: the hub {rule}: {_said(error, token)}") from None
    if user.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise TrialError(f"{where}: the token may only read; make one that may write")
    return HubTarget(repo_id if "/" in repo_id else f"{user['name']}/{repo_id}", private)


def _said(error: Exception, token: str | None) -> str:
    """What an error says, on one line and without the token."""
    text = " ".join((str(error) or type(error).__name__).split())
    return text.replace(token, "***") if token else text
