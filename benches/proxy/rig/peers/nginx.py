"""nginx that authenticates nobody, and nginx that asks an authenticator (`auth_request`) on each request."""

from sidecar import free_port

from ..backend import start_nginx


def start(scene):
    return configured(scene, "nginx", 'proxy_set_header X-Forwarded-User "nobody";', "", "")


def start_asking(scene):
    asked = (
        f"upstream authn {{ server 127.0.0.1:{scene.authenticator}; keepalive 128; keepalive_requests 100000000; }}\n",
        "auth_request /_authn; auth_request_set $who $upstream_http_x_user; proxy_set_header X-Forwarded-User $who;",
        "location = /_authn { internal; proxy_pass http://authn/; proxy_http_version 1.1; proxy_pass_request_body off;\n"
        'proxy_set_header Connection ""; proxy_set_header Content-Length ""; }\n',
    )
    return configured(scene, "nginx-auth", asked[1], asked[0], asked[2])


def configured(scene, name, identity, upstreams, locations):
    """The server on a free port; it has no token of its own."""
    port, variant, keys = free_port(), scene.variant, scene.keys
    listen = f"listen 127.0.0.1:{port} backlog=4096{' reuseport' if variant.workers > 1 else ''}"
    if variant.tls:
        listen += (
            f" ssl http2; ssl_certificate {keys.certificate}; ssl_certificate_key {keys.certificate_key}; ssl_protocols TLSv1.2 TLSv1.3"
        )
    headers = (
        "proxy_http_version 1.1; proxy_set_header Host $http_host; proxy_set_header X-Real-IP $remote_addr;\n"
        "proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme;\n"
        f'proxy_set_header X-Request-Id $request_id; {identity} proxy_set_header X-Remote-User "";\n'
        'proxy_set_header Authorization ""; proxy_request_buffering off;'
    )
    body = (
        f"upstream up {{ server 127.0.0.1:{scene.upstream}; keepalive 128; keepalive_requests 100000000; }}\n{upstreams}"
        # With h2 there is no Host field.
        f"server {{ {listen};\n{locations}"
        f'location / {{ proxy_pass http://up; proxy_set_header Connection "";\n{headers} }}\n'
        f"location /ws {{ proxy_pass http://127.0.0.1:{scene.echo}; proxy_set_header Upgrade $http_upgrade;\n"
        f'proxy_set_header Connection "upgrade"; proxy_read_timeout 1h;\n{headers} }} }}'
    ).replace("Host $http_host", "Host $host" if variant.tls else "Host $http_host")
    log = f"{scene.folder}/{name}-{port}.log combined buffer=64k flush=1s" if variant.logged else "off"
    server = start_nginx(scene.tools["nginx"], scene.cores(), scene.folder, f"{name}-{port}", port, body, log, variant.workers)
    return server, None
