"""The token without which nothing can be written to the Hub."""

from huggingface_hub import get_token


def require_token(option: str, token: str | None = None) -> None:
    """Raises ValueError, which says how to log in, where neither `token` is given nor one is known to this machine.

    Args:
        option: what asks for it, such as "push_to_hub".
        token: a token that was given.
    """
    if not token and get_token() is None:
        raise ValueError(
            f"{option} needs a token of the Hub, and there is none: log in with `hf auth login`, or put one that may "
            "write, from https://huggingface.co/settings/tokens, into the environment as HF_TOKEN."
        )
