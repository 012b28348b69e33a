"""Envoy with `jwt_authn` and a local JWKS, with or without its cache of verified tokens. One token is signed with EdDSA, as
nullpass's are; many are signed with HS256, since openssl would take minutes for them otherwise."""

import json

from sidecar import free_port

from ..backend import IDENTITY
from ..keys import ISSUER
from ..processes import Server, pinned

TYPE = "type.googleapis.com/envoy.extensions"
# Its cache has 100 tokens by default, of at most 4 KiB each.
CACHED = 200_000


def typed(name, kind, **fields):
    return {"name": name, "typed_config": {"@type": f"{TYPE}.{kind}", **fields}}


def cluster(name, port):
    endpoint = {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
        "circuit_breakers": {"thresholds": [{"max_connections": 16384, "max_pending_requests": 16384, "max_requests": 16384}]},
    }


def filters(scene, cache):
    provider = {
        "issuer": ISSUER,
        "audiences": ["nullpass"],
        "local_jwks": {"inline_string": scene.keys.jwks()},
        "claim_to_headers": [{"header_name": "X-Forwarded-User", "claim_name": "email"}],
        "forward": False,
    }
    if cache:
        provider["jwt_cache_config"] = {"jwt_cache_size": CACHED}
    strip = [{"remove": name} for name in IDENTITY]
    return [
        typed("strip", "filters.http.header_mutation.v3.HeaderMutation", mutations={"request_mutations": strip}),
        typed(
            "jwt",
            "filters.http.jwt_authn.v3.JwtAuthentication",
            providers={"bench": provider},
            rules=[{"match": {"prefix": "/"}, "requires": {"provider_name": "bench"}}],
        ),
        typed("router", "filters.http.router.v3.Router"),
    ]


def start(scene, cache):
    port, variant = free_port(), scene.variant
    manager = {
        "stat_prefix": "front",
        "codec_type": "AUTO",
        "use_remote_address": True,
        "http_filters": filters(scene, cache),
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "stream_idle_timeout": "3600s",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [
                        {"match": {"prefix": "/ws"}, "route": {"cluster": "echo", "timeout": "0s"}},
                        {"match": {"prefix": "/"}, "route": {"cluster": "up", "timeout": "60s"}},
                    ],
                }
            ]
        },
    }
    if variant.logged:
        path = f"{scene.folder}/envoy-{port}.access"
        manager["access_log"] = [typed("file", "access_loggers.file.v3.FileAccessLog", path=path)]
    chain = {"filters": [typed("http", "filters.network.http_connection_manager.v3.HttpConnectionManager", **manager)]}
    if variant.tls:
        certificate = {
            "certificate_chain": {"filename": str(scene.keys.certificate)},
            "private_key": {"filename": str(scene.keys.certificate_key)},
        }
        common = {"tls_certificates": [certificate], "alpn_protocols": ["h2", "http/1.1"]}
        chain["transport_socket"] = typed("tls", "transport_sockets.tls.v3.DownstreamTlsContext", common_tls_context=common)
    listener = {
        "name": "front",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "tcp_backlog_size": 4096,
        "filter_chains": [chain],
    }
    clusters = [cluster("up", scene.upstream), cluster("echo", scene.echo)]
    path = scene.folder / f"envoy-{port}.json"
    path.write_text(json.dumps({"static_resources": {"listeners": [listener], "clusters": clusters}}, indent=1))
    command = [scene.tools["envoy"], "-c", path, "--concurrency", variant.workers, "--disable-hot-restart", "-l", "error"]
    return Server(pinned(scene.cores(), *command), port, scene.folder / f"envoy-{port}.log"), None
