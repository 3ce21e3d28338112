"""Whether the hub answers."""

from __future__ import annotations

SECONDS = 5.0  # waited for the hub to answer at all


def online() -> bool:
    """Whether the hub answers: one request, where its own client would try for half a minute."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=SECONDS)
    except Exception:  # no route, no name, a proxy that refuses: all mean offline
        return False
    return True
