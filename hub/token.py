"""The user's token: where it comes from and whose it is; never the token itself."""

from __future__ import annotations

import os
from dataclasses import dataclass

_SECONDS = 10.0  # longest wait for an answer about the token


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Who a token belongs to. reads_gated: a fine-grained token's permission; None for tokens without such limits."""

    name: str
    role: str
    reads_gated: bool | None


def token_source() -> str | None:
    """Where the client finds its token: `HF_TOKEN`, or the file's path; None where there is none."""
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN or get_token() is None:
        return None
    named = next((name for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN") if os.environ.get(name)), None)
    return named or constants.HF_TOKEN_PATH


def owner() -> Owner | None:
    """Who the token belongs to, as the Hub says; None where it does not say. Cost: one request."""
    from huggingface_hub import HfApi
    from huggingface_hub.utils import build_hf_headers, get_session, httpx  # type: ignore[attr-defined]

    try:
        answer = get_session().get(f"{HfApi().endpoint}/api/whoami-v2", headers=build_hf_headers(), timeout=_SECONDS)
        answer.raise_for_status()
        values = answer.json()
        token = values.get("auth", {}).get("accessToken", {})
        limits = token.get("fineGrained")
        return Owner(
            name=str(values["name"]),
            role=str(token.get("role", "unknown")),
            reads_gated=bool(limits.get("canReadGatedRepos")) if isinstance(limits, dict) else None,
        )
    except (httpx.HTTPError, OSError, ValueError, KeyError, AttributeError):
        return None
