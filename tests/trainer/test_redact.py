"""Secrets are found by the environment's names for them, and by their shapes."""

from __future__ import annotations

import pytest
from tune_lora.trainer.config import TrialConfig
from tune_lora.trainer.redact import redact, redact_command, secrets
from tune_lora.trainer.result import TrialResult, TrialState

SECRET = "s3cr3t-of-the-environment"


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD", "my_secret"]
)
def test_what_the_environment_calls_a_secret_is_one(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, SECRET)
    assert secrets()[name] == SECRET
    assert redact(f"a {SECRET} b={SECRET}") == "a *** b=***"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TOKENIZERS_PARALLELISM", "disabled-for-tests"),
        ("HF_TOKEN_PATH", "/home/user/token"),
        ("KEYBOARD", "a long word for it"),
        ("API_KEY", "short"),
    ],
)
def test_other_variables_are_none(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    assert redact(f"it says {value}") == f"it says {value}"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("see hf_abcdefghijklmnopqrst.", "see ***."),
        ("key sk-abcdefghijklmnop1234 in use", "key *** in use"),
        ("https://me:pass@host/x", "https://***@host/x"),
        ("ghp_abcdefghijklmnopqrst", "***"),
        ("no secret: https://host/x?y=1@2", "no secret: https://host/x?y=1@2"),
        ("half_abcdefghijklmnopqrstuvwxyz", "half_abcdefghijklmnopqrstuvwxyz"),
    ],
)
def test_shapes(text: str, left: str) -> None:
    assert redact(text) == left


@pytest.mark.parametrize(
    ("command", "left"),
    [
        ("tune-lora search x --hf-token abc --run r", "tune-lora search x --hf-token *** --run r"),
        ("tune-lora search x data.api_key=abc", "tune-lora search x data.api_key=***"),
        ("tune-lora search x 'tracking.token=a b'", "tune-lora search x 'tracking.token=*** b'"),
        ("tune-lora search x train.max_tokens=5", "tune-lora search x train.max_tokens=5"),
    ],
)
def test_options_named_after_secrets(command: str, left: str) -> None:
    assert redact_command(command) == left


def test_error_of_a_trial_is_redacted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    config = TrialConfig(0, "CAUSAL_LM", {}, {}, ())
    result = TrialResult(0, TrialState.RUNNING, config.to_dict())
    ended = result.ended(TrialState.FAILED, f"Traceback: 401 for Bearer {SECRET}")
    assert ended.error == "Traceback: 401 for Bearer ***"
