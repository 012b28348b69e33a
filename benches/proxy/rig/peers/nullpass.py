"""nullpass with its defaults; only the limits on signing in are off, since all clients have one address."""

import json
import os
import shutil

from sidecar import PASSWORD, call, free_port

from .. import tools
from ..keys import EMAIL, ISSUER
from ..processes import Server, pinned


def start(scene, binary):
    """Starts `binary`; gives the server and somebody's token."""
    port, variant = free_port(), scene.variant
    folder = scene.folder / f"nullpass-{port}"
    folder.mkdir()
    filled = None
    if variant.sessions:
        filled = tools.filled(variant.sessions)
        shutil.copytree(filled / "data", folder / "data")
    tls = f'[server.tls]\ncert = "{scene.keys.certificate}"\nkey = "{scene.keys.certificate_key}"\n' if variant.tls else ""
    (folder / "nullpass.toml").write_text(
        f'[server]\nlisten = ["127.0.0.1:{port}"]\nworkers = {variant.workers}\n{tls}'
        '[admin]\nlisten = ""\n[accounts]\nregistration = "open"\n[limits]\nregister_per_ip = ""\nauth_per_ip = ""\n'
        f'[tokens]\nissuer = "{ISSUER}"\n[storage]\npath = "{folder}/data"\n[log]\naccess = {str(variant.logged).lower()}\n'
        f'[[upstreams]]\nname = "app"\nurl = "http://127.0.0.1:{scene.upstream}"\n'
        f'[[upstreams]]\nname = "echo"\npath = "/ws"\nurl = "http://127.0.0.1:{scene.echo}"\n'
    )
    command = pinned(scene.cores(), binary, "serve", "--config", folder / "nullpass.toml")
    # The environment could configure it too.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NULLPASS")}
    server = Server(command, port, folder / "log", environment)
    if filled:
        return server, None
    try:
        status, _, body = call(port, "POST", "/_auth/api/auth/register", {"email": EMAIL, "password": PASSWORD}, tls=variant.tls)
        if status != 201:
            raise SystemExit(f"registering failed: {status} {body[:300]!r}")
        return server, json.loads(body)["token"]
    except BaseException:
        server.stop()
        raise
