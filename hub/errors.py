"""What stands between a user and the Hub, as exceptions with their advice."""

from __future__ import annotations


class HubError(Exception):
    """No access: no token, no permission, no such repository, no network.

    summary: one line, what is wrong and where. advice: what to do next, one line.
    """

    def __init__(self, summary: str, *, advice: str = "") -> None:
        super().__init__(summary)
        self.summary = summary
        self.problems: tuple[str, ...] = ()
        self.advice = advice
