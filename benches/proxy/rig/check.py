"""What a proxy must show before it is measured: that it forwards, authenticates, tells the upstream who it is, and lets no
client choose that."""

import base64
import json

from sidecar import call

from .backend import IDENTITY
from .keys import forged

REFUSED = (401, 302, 403)
MIB = 1024 * 1024


def check(name, peer):
    """Ends the run when something is not as it must be; otherwise says what was shown."""

    def ask(path, token, **more):
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return call(peer.port, "GET", path, headers=headers | more, tls=peer.tls)

    mallory = {header: "mallory@example.com" for header in IDENTITY}
    status, _, body = ask("/who", peer.token, **mallory)
    who = email(peer.token) if peer.kind.authenticates else "nobody"
    expected = "|".join([who, "", ""])
    if status != 200 or body.decode() != expected:
        raise SystemExit(f"{name}: the upstream was told {body[:300]!r} ({status}), not {expected!r}")
    if len(ask("/1m", peer.token)[2]) != MIB:
        raise SystemExit(f"{name}: 1 MiB did not come through")
    if not peer.kind.authenticates:
        return "authenticates nobody, by intent; forwards, and clients' identity headers do not arrive"
    attempts = {"no token": None} | forged(peer.token)
    for what, token in attempts.items():
        for path in ("/who", "/ws"):
            status, _, body = ask(path, token, **mallory)
            if status not in REFUSED or b"@" in body:
                raise SystemExit(f"{name}: {what} on {path} got {status} {body[:300]!r}")
    return f"refuses {', '.join(attempts)}; tells the upstream the name; clients' identity headers and the token do not arrive"


def email(token):
    claims = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["email"]
