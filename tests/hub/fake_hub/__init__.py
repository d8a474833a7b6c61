"""A Hub of our own: the Hub's routes over real HTTP on this machine, with faults to order.

Two listeners: the Hub at 127.0.0.1 and its CDN at `localhost`, so that they are two host names. What it assumes of
the real Hub and could not be checked here: which routes of a gated repository are public, the words of its
refusals, X-Error-Code on an anonymous 401, and the CDN's 403 to an expired signature.
"""

from __future__ import annotations

from tests.hub.fake_hub.access import Account
from tests.hub.fake_hub.faults import Faults
from tests.hub.fake_hub.hub import FakeHub
from tests.hub.fake_hub.records import Request

__all__ = ["Account", "FakeHub", "Faults", "Request"]
