"""The image, as far as it can be tested without an engine to build it: the Dockerfile by a linter, and the same binary
that it would hold in a root of its own with nothing else in it, as uid 65532, on a read-only file system.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import yaml

from harness import API, PASSWORD, ROOT, binary, clean_environment, end, free_port, new_email, run_cli, wait_for_http
from upstreams import EchoUpstream

UID = 65532
READ_ONLY_ROOT = """set -e
root=$1; shift
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
mount --bind "$root.data" "$root/data"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
exec chroot --userspec=%d:%d "$root" /nullpass "$@"
""" % (UID, UID)  # fmt: skip


def can_mount() -> bool:
    return subprocess.run(["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, check=False).returncode == 0


@pytest.fixture
def empty_root(tmp_path):
    """A root with the binary, /etc/hosts, /data and /tmp."""
    if os.geteuid() != 0:
        pytest.skip("changing the root needs root")
    needed = binary()
    dynamic = subprocess.run(["ldd", needed], capture_output=True, text=True, check=False)
    if "=>" in dynamic.stdout:
        pytest.skip(f"{needed} is not the static build: tests/run build")
    # The folders above must be passable for the unprivileged user.
    for parent in [tmp_path, *tmp_path.parents]:
        if parent != Path("/") and str(parent).startswith("/tmp/"):
            parent.chmod(0o755)
    root, data = tmp_path / "root", tmp_path / "root.data"
    for folder in (root, data, root / "etc", root / "data", root / "tmp"):
        folder.mkdir()
    shutil.copy(needed, root / "nullpass")
    (root / "nullpass").chmod(0o555)
    (root / "etc/hosts").write_text("127.0.0.1 localhost app.test\n")
    (root / "tmp").chmod(0o1777)
    for folder in (data, root / "data"):
        os.chown(folder, UID, UID)
        folder.chmod(0o700)
    for folder in (root / "etc", root):
        folder.chmod(0o555)
    return root


def inside(root: Path, *args: str) -> list[str]:
    """The command that runs `/nullpass ARGS` in there. Without the right to mount, the file modes keep it read-only."""
    if can_mount():
        return ["unshare", "--mount", "--propagation", "private", "sh", "-c", READ_ONLY_ROOT, "sh", str(root), *args]
    return ["chroot", f"--userspec={UID}:{UID}", str(root), "/nullpass", *args]


def test_serve_in_an_empty_root(empty_root, tmp_path):
    port, admin = free_port(), free_port()
    with EchoUpstream() as echo:
        env = {
            "NULLPASS__SERVER__LISTEN": f"127.0.0.1:{port}",
            "NULLPASS__ADMIN__LISTEN": f"127.0.0.1:{admin}",
            "NULLPASS__STORAGE__PATH": "/data",
            "NULLPASS__ACCOUNTS__REGISTRATION": "open",
            "NULLPASS__UPSTREAM": f"http://app.test:{echo.port}",  # resolved by what is linked in
        }
        log = tmp_path / "serve.log"
        with log.open("ab") as out:
            process = subprocess.Popen(inside(empty_root, "serve"), stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=clean_environment(env))
        try:
            wait_for_http(f"http://127.0.0.1:{admin}/readyz", process, log.read_text)
            status = Path(f"/proc/{process.pid}/status").read_text()
            assert re.search(rf"^Uid:\s+{UID}\s+{UID}", status, re.M), "not root"
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
                said = client.post(f"{API}/auth/register", json={"email": new_email(), "password": PASSWORD})
                assert said.status_code == 201, said.text
                answer = client.get("/inside", headers={"Authorization": f"Bearer {said.json()['token']}"})
                assert answer.status_code == 200 and answer.json()["line"] == "GET /inside HTTP/1.1"
            # The health check of the image: the same binary, the same environment, no shell.
            healthy = subprocess.run(inside(empty_root, "health"), env=clean_environment(env), capture_output=True, text=True, timeout=20)
            assert healthy.returncode == 0, healthy.stderr
            written = {p.relative_to(empty_root).parts[0] for p in empty_root.rglob("*")}
            assert written == {"nullpass", "etc", "data", "tmp"}, "it writes below /data and /tmp only"
        finally:
            assert end(process) == 0, log.read_text()


def test_demo_in_an_empty_root(empty_root, tmp_path):
    port, admin = free_port(), free_port()
    log = tmp_path / "demo.log"
    env = {"NULLPASS__ADMIN__LISTEN": f"127.0.0.1:{admin}", "TMPDIR": "/tmp"}
    with log.open("ab") as out:
        process = subprocess.Popen(inside(empty_root, "demo", "--listen", f"127.0.0.1:{port}"), stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=clean_environment(env))
    try:
        wait_for_http(f"http://127.0.0.1:{port}{API}/health", process, log.read_text)
        assert f":{port}" in log.read_text()
    finally:
        assert end(process) == 0, log.read_text()


def test_the_dockerfile_passes_the_linter():
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, "--failure-threshold", "info", ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_image_is_what_the_documentation_says():
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    last = text[text.rindex("\nFROM ") :]
    assert re.search(r"^FROM gcr\.io/distroless/\S+:nonroot", last.strip(), re.M)
    assert 'HEALTHCHECK' in last and '["/nullpass", "health"]' in last and "VOLUME" in last and "/data" in last
    env = dict(re.findall(r"(NULLPASS__\w+)=(\S+)", last))
    assert env["NULLPASS__SERVER__LISTEN"] == "0.0.0.0:8080" and env["NULLPASS__STORAGE__PATH"] == "/data"
    assert "+crt-static" in text and re.search(r"^USER 65532:65532$", last, re.M)
    # What it sets is a start error without an address that browsers use, and says so.
    refused = run_cli("config", "check", env=env | {"NULLPASS__UPSTREAM": "http://127.0.0.1:3000"}, cwd=Path("/"))
    assert refused.returncode == 2 and "public_url" in refused.stdout + refused.stderr
    fine = run_cli("config", "check", env=env | {"NULLPASS__UPSTREAM": "http://127.0.0.1:3000", "NULLPASS__SERVER__PUBLIC_URL": "https://app.example.com"}, cwd=Path("/"))
    assert fine.returncode == 0, fine.stdout + fine.stderr


def test_the_compose_file_and_the_unit_agree_with_the_binary():
    compose = yaml.safe_load((ROOT / "deploy/compose.yml").read_text(encoding="utf-8"))
    service = compose["services"]["nullpass"]
    assert service["read_only"] is True and service["cap_drop"] == ["ALL"]
    assert "ports" not in compose["services"]["app"], "the application is reached through nullpass only"
    env = {k: re.sub(r"\$\{\w+:\?[^}]*\}", "https://app.example.com", str(v)) for k, v in service["environment"].items()}
    image = {"NULLPASS__SERVER__LISTEN": "0.0.0.0:8080", "NULLPASS__STORAGE__PATH": "/data"}
    checked = run_cli("config", "check", env=image | env, cwd=Path("/"))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    unit = (ROOT / "deploy/systemd/nullpass.service").read_text(encoding="utf-8")
    assert "ExecStart=/usr/local/bin/nullpass serve --config /etc/nullpass/nullpass.toml" in unit
    for line in ("DynamicUser=yes", "ProtectSystem=strict", "NoNewPrivileges=yes", "CapabilityBoundingSet=", "StateDirectory=nullpass"):
        assert line in unit
