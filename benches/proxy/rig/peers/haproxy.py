"""HAProxy with `jwt_verify` on every request; `exp` is compared by hand, since `jwt_verify` looks at the signature only."""

from sidecar import free_port

from ..keys import SECRET
from ..processes import Server, pinned


def start(scene, algorithm):
    port, variant = free_port(), scene.variant
    key = SECRET if algorithm == "HS256" else scene.keys.public(algorithm)
    tls = f" ssl crt {scene.keys.bundle} alpn h2,http/1.1" if variant.tls else ""
    path = scene.folder / f"haproxy-{port}.cfg"
    path.write_text(
        f"global\n  nbthread {variant.workers}\n  maxconn 8192\n"
        + ("  log stdout format raw local0\n" if variant.logged else "")
        + "defaults\n  mode http\n  timeout client 75s\n  timeout server 60s\n  timeout connect 5s\n  timeout tunnel 1h\n"
        "  timeout http-request 10s\n  http-reuse always\n  option forwardfor\n"
        + ("  log global\n  option httplog\n" if variant.logged else "")
        + f"frontend front\n  bind 127.0.0.1:{port} backlog 4096{tls}\n"
        "  unique-id-format %{+X}o%ci%cp%Ts%rt\n  unique-id-header X-Request-Id\n"
        "  http-request set-var(txn.bearer) http_auth_bearer\n"
        "  http-request set-var(txn.alg) var(txn.bearer),jwt_header_query('$.alg')\n"
        "  http-request set-var(txn.exp) var(txn.bearer),jwt_payload_query('$.exp','int')\n"
        "  http-request set-var(txn.now) date()\n"
        f"  http-request deny deny_status 401 unless {{ var(txn.alg) -m str {algorithm} }}\n"
        f'  http-request deny deny_status 401 unless {{ var(txn.bearer),jwt_verify(txn.alg,"{key}") 1 }}\n'
        "  http-request deny deny_status 401 if { var(txn.exp),sub(txn.now) -m int lt 0 }\n"
        "  http-request set-header X-Forwarded-User %[var(txn.bearer),jwt_payload_query('$.email')]\n"
        "  http-request del-header X-Remote-User\n  http-request del-header Authorization\n"
        f"  http-request set-header X-Forwarded-Proto {'https' if variant.tls else 'http'}\n"
        "  use_backend echo if { path_beg /ws }\n  default_backend back\n"
        f"backend back\n  server up 127.0.0.1:{scene.upstream} pool-max-conn 256\n"
        f"backend echo\n  server up 127.0.0.1:{scene.echo}\n"
    )
    command = pinned(scene.cores(), scene.tools["haproxy"], "-db", "-f", path)
    return Server(command, port, scene.folder / f"haproxy-{port}.log"), None
