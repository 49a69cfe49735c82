"""The one error of a trial, beside ``SpaceError`` for what a user wrote."""


class TrialError(RuntimeError):
    """A trial, an export or a model could not be carried out; the message says what to do."""


class DiskFullError(TrialError):
    """Nothing more can be written: no fault of the trial that noticed it."""
