"""Caddy that asks an authenticator (`forward_auth`) on each request."""

import os

from sidecar import free_port

from ..processes import Server, pinned


def start(scene):
    port, variant = free_port(), scene.variant
    address = f"https://:{port}" if variant.tls else f"http://:{port}"
    tls = f"tls {scene.keys.certificate} {scene.keys.certificate_key}\n" if variant.tls else ""
    log = f"log {{\n output file {scene.folder}/caddy-{port}.access\n format json\n}}\n" if variant.logged else ""
    keep = "transport http {\n keepalive_idle_conns 512\n keepalive_idle_conns_per_host 512\n}\n"
    forward = f"reverse_proxy 127.0.0.1:%d {{\n header_up -Authorization\n {keep}}}\n"
    path = scene.folder / f"Caddyfile-{port}"
    path.write_text(
        "{\n admin off\n persist_config off\n auto_https off\n log {\n  level ERROR\n }\n}\n"
        f"{address} {{\n bind 127.0.0.1\n{tls}{log}"
        # Without `route` Caddy would sort them, and clear the headers behind the authenticator.
        "route {\nrequest_header -X-Forwarded-User\nrequest_header -X-Remote-User\n"
        f"forward_auth 127.0.0.1:{scene.authenticator} {{\n uri /\n copy_headers X-User>X-Forwarded-User\n {keep}}}\n"
        f"handle /ws* {{\n{forward % scene.echo}}}\nhandle {{\n{forward % scene.upstream}}}\n}}\n}}\n"
    )
    home = scene.folder / f"caddy-{port}"
    home.mkdir()
    environment = os.environ | {
        "GOMAXPROCS": str(variant.workers),
        "XDG_DATA_HOME": str(home),
        "XDG_CONFIG_HOME": str(home),
        "HOME": str(home),
    }
    command = [scene.tools["caddy"], "run", "--config", path, "--adapter", "caddyfile"]
    return Server(pinned(scene.cores(), *command), port, scene.folder / f"caddy-{port}.log", environment), None
