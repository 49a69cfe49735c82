"""CMA-ES whose state is read back from the study without running what else a pickle can hold.

Optuna keeps the optimizer as a pickle in the study. A study comes with a run folder, and that may
come from someone else; so nothing is unpickled here but cmaes' own class and numpy's arrays.
"""

from __future__ import annotations

import io
import logging
import pickle
from typing import Any

from optuna.samplers import CmaEsSampler
from optuna.trial import FrozenTrial

logger = logging.getLogger(__name__)

_ALLOWED = {
    ("cmaes._cma", "CMA"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
}


class SafeCmaEsSampler(CmaEsSampler):
    """Optuna's sampler, but for how it takes up the state of an earlier process."""

    def _restore_optimizer(self, completed_trials: list[FrozenTrial]) -> Any:
        """The latest optimizer; None, to begin anew, where there is none that can be trusted."""
        prefix = self._attr_key_optimizer
        for trial in reversed(completed_trials):
            parts = {k: v for k, v in trial.system_attrs.items() if k.startswith(prefix)}
            if parts:
                try:
                    return _Unpickler(bytes.fromhex(self._concat_optimizer_attrs(parts))).load()
                except Exception as error:
                    logger.warning("cmaes starts over: its state in the study is no use: %s", error)
                    return None
        return None


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))

    def find_class(self, module: str, name: str) -> Any:
        """The class, if it is one that an optimizer is made of."""
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in it")
        return super().find_class(module, name)
