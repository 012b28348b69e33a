"""What stands behind the proxies, all on the load's core: nginx with fixed bodies, nginx as a trivial authenticator for those
that ask one, and a WebSocket echo."""

import os

from sidecar import free_port

from .keys import EMAIL
from .processes import Server, pinned

# Names that clients may not choose; what arrives under them is told by /who.
IDENTITY = ("X-Forwarded-User", "X-Remote-User")


def start_nginx(tool, cores, folder, name, port, body, access="off", workers=1):
    """nginx with the common settings around the `http` section's `body`."""
    folder = folder / name
    folder.mkdir(parents=True)
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(
        f"{user} worker_processes {workers}; daemon off; pid {folder}/pid; error_log {folder}/error.log;\n"
        "worker_rlimit_nofile 65536; events { worker_connections 16384; }\n"
        f"http {{ access_log {access}; keepalive_requests 100000000; keepalive_timeout 75s; client_max_body_size 0;\n"
        f"client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;\n"
        f"uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s; sendfile on; tcp_nopush on;\n{body} }}\n"
    )
    command = pinned(cores, tool, "-e", f"{folder}/error.log", "-c", f"{folder}/nginx.conf")
    return Server(command, port, folder / "out")


def upstream(tool, cores, folder):
    """Fixed bodies; `/who` tells what it was told about the person."""
    root = folder / "root"
    root.mkdir()
    for name, content in {"1k": b"k" * 1024, "post": b"", "1m": b"m" * 1024 * 1024}.items():
        (root / name).write_bytes(content)
    told = "|".join(f"$http_{name.lower().replace('-', '_')}" for name in (*IDENTITY, "Authorization"))
    port = free_port()
    body = (
        f"server {{ listen 127.0.0.1:{port} backlog=4096; root {root}; open_file_cache max=10;\n"
        # `mirror` is what makes nginx read a body to its end before it answers; a static file then refuses the POST.
        "location = /post { client_body_buffer_size 128k; mirror /drop; mirror_request_body on; error_page 405 =200 /1k; }\n"
        "location = /drop { internal; return 204; }\n"
        f'location = /who {{ return 200 "{told}"; }} }}'
    )
    return start_nginx(tool, cores, folder, "upstream", port, body)


def authenticator(tool, cores, folder, token):
    """Knows one token by heart: 200 and a name for it, 401 for all else. What a real one costs is left out."""
    port = free_port()
    body = (
        "map_hash_bucket_size 2048;\n"
        f'map $http_authorization $who {{ default ""; "Bearer {token}" "{EMAIL}"; }}\n'
        f"server {{ listen 127.0.0.1:{port} backlog=4096;\n"
        'location / { if ($who = "") { return 401; } add_header X-User $who; return 200; } }'
    )
    return start_nginx(tool, cores, folder, "authenticator", port, body)


def echo(load, cores, folder):
    """Sends WebSocket messages back."""
    port = free_port()
    return Server(pinned(cores, load, "echo", port), port, folder / "echo.log")
