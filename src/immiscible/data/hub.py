"""What may go wrong with the Hugging Face hub."""

from __future__ import annotations


def unreachable() -> tuple[type[BaseException], ...]:
    """The errors of a hub that cannot be reached, or refuses."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    # The base of the hub's own error is that of whichever HTTP library this version of it uses.
    return (*HfHubHTTPError.__bases__, HFValidationError, OSError, ValueError)
