"""An exported folder's way to the Hugging Face hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..trainer.errors import TrialError, reason


@dataclass(frozen=True)
class Push:
    """A model repository on the hub.

    The token is the one that ``hf auth login`` or HF_TOKEN has given; it is never shown or kept.

    Attributes:
        repository: ``NAME`` or ``OWNER/NAME``; made where it is missing.
        private: whether it is made for its owner's eyes only.
    """

    repository: str
    private: bool = False

    def check(self) -> None:
        """Before any work: there is a token, the hub answers, and the repository is ours.

        Raises:
            TrialError: one of these is not so.
        """
        from huggingface_hub import HfApi
        from huggingface_hub.errors import (
            HfHubHTTPError,
            HFValidationError,
            LocalTokenNotFoundError,
            OfflineModeIsEnabled,
        )

        api = HfApi()
        try:
            api.whoami()
            api.create_repo(self.repository, repo_type="model", private=self.private, exist_ok=True)
        except LocalTokenNotFoundError:
            raise TrialError(
                "--push: there is no token; run hf auth login, or set HF_TOKEN"
            ) from None
        except HFValidationError as error:
            raise TrialError(f"--push {self.repository}: {reason(error)}") from None
        except HfHubHTTPError as error:
            status = error.response.status_code if error.response is not None else "no answer"
            raise TrialError(
                f"--push {self.repository}: the hub refuses ({status}); does the token have the "
                "right to write there?"
            ) from None
        except (OfflineModeIsEnabled, OSError) as error:
            raise TrialError(f"--push: the hub cannot be reached: {reason(error)}") from None

    def upload(self, folder: Path) -> None:
        """Upload everything in a folder, after ``check``.

        Raises:
            TrialError: it did not get there; the folder stays.
        """
        from huggingface_hub import HfApi

        try:
            HfApi().upload_folder(
                repo_id=self.repository, folder_path=str(folder), repo_type="model"
            )
        except Exception as error:
            raise TrialError(
                f"{folder} is exported, but not on the hub: {reason(error)}; try: "
                f"hf upload {self.repository} {folder}"
            ) from error
