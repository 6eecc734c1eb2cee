"""The one error type users see."""


class LynxError(ValueError):
    """A mistake in the input: the message says what, where, what was got and what was wanted."""
