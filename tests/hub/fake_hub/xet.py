"""Xet without a network: the client's own library accepts a folder as its storage."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from tests.hub.fake_hub.access import check_gate, check_write, find, who
from tests.hub.fake_hub.answers import Answer, Call, refusal
from tests.hub.fake_hub.contents import Blob

if TYPE_CHECKING:
    from tests.hub.fake_hub.hub import FakeHub


def headers(hub: FakeHub, name: str, commit: str, blob: Blob) -> dict[str, str]:
    """What a file's answer says of Xet; nothing where it is off."""
    if not hub.xet:
        return {}
    return {
        "X-Xet-Hash": hash_of(hub, blob),
        "Link": f'<{hub.url}/api/models/{name}/xet-read-token/{commit}>; rel="xet-auth"',
    }


def hash_of(hub: FakeHub, blob: Blob) -> str:
    """Xet's name for the blob, which is put into its storage when first asked for.

    For a storage that never answers, and for a blob that is not here, any well-formed name will do.
    """
    if hub.xet == "stalled" or blob.data is None:
        return blob.sha256
    with hub.lock:
        if blob.sha256 not in hub.xet_hashes:
            hub.xet_hashes[blob.sha256] = _upload(hub, blob)
        return hub.xet_hashes[blob.sha256]


def token(hub: FakeHub, call: Call, name: str, kind: str, revision: str) -> Answer:
    """GET /api/models/NAME/xet-read-token/REVISION, xet-write-token: where the storage is."""
    account = who(hub, call.headers)
    repository = find(hub, name, account)
    if not hub.xet:
        raise refusal(404, "Xet is off")
    if kind == "write":
        check_write(name, account, as_pull_request=call.query.get("create_pr") == "1" or "refs%2Fpr" in revision)
    check_gate(repository, account)
    where, expiration = hub.cas_url, int(time.time()) + 3600
    body = {"casUrl": where, "exp": expiration, "accessToken": "xet_test"}
    return Answer(
        headers={
            "Content-Type": "application/json",
            "X-Xet-Cas-Url": where,
            "X-Xet-Access-Token": "xet_test",
            "X-Xet-Token-Expiration": str(expiration),
        },
        body=json.dumps(body).encode(),
    )


def _upload(hub: FakeHub, blob: Blob) -> str:
    from hf_xet import XetSession

    with XetSession().new_upload_commit(endpoint=hub.cas_url) as commit:
        if isinstance(blob.data, bytes):
            handle = commit.start_upload_bytes(blob.data, sha256=blob.sha256)
        else:
            handle = commit.start_upload_file(str(blob.data), sha256=blob.sha256)
    return str(handle.result().xet_info.hash)
