"""The one error of a trial, beside ``SpaceError`` for what a user wrote."""


class TrialError(RuntimeError):
    """A trial, an export or a model could not be carried out; the message says what to do."""
