"""Other people's proxies, started from the very files that `deploy/` ships.

A file is changed in its three ports alone, which are 8000 (the proxy itself), 8080 (nullpass) and 3000 (the application)
wherever they stand, and in the place of a file that it names; what it leaves to the rest of an installation (modules,
users, folders) is put around it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from glob import glob
from pathlib import Path

from harness import ROOT, clean_environment, end, free_port, wait_for_port

DEPLOY = ROOT / "deploy"
KINDS = ("nginx", "apache", "haproxy", "caddy", "envoy")
PROGRAMS = {"nginx": "nginx", "apache": "apache2", "haproxy": "haproxy", "caddy": "caddy", "envoy": "envoy"}


def program(kind: str) -> str | None:
    """The proxy's program: beside the interpreter, on the path, or where Debian keeps daemons."""
    if kind == "apache" and not glob("/usr/share/lua/*/socket.lua"):
        return None
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    return shutil.which(PROGRAMS[kind], path=path)


class OtherProxy:
    """A proxy in front of an application, which asks nullpass."""

    def __init__(self, kind: str, nullpass_port: int, app_port: int):
        self.kind = kind
        self.port = free_port()
        self._ports = {"8000": self.port, "8080": nullpass_port, "3000": app_port}
        # Not pytest's own folder: Apache reads its Lua file as a user who may not go in there.
        self.folder = Path(tempfile.mkdtemp(prefix="nullpass-proxy-"))
        self.folder.chmod(0o755)
        self.process: subprocess.Popen | None = None

    def __enter__(self) -> OtherProxy:
        command = getattr(self, f"_{self.kind}")()
        with (self.folder / "log").open("ab") as log:
            environment = clean_environment({"HOME": str(self.folder), "XDG_DATA_HOME": str(self.folder), "XDG_CONFIG_HOME": str(self.folder)})
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=self.folder, env=environment)
        try:
            wait_for_port(self.port, self.process)
        except AssertionError as error:
            raise AssertionError(f"{error}:\n{self.log[-4000:]}") from None
        return self

    def __exit__(self, *_: object) -> None:
        if self.process:
            end(self.process)
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(encoding="utf-8", errors="replace")

    def _shipped(self, name: str, **places: Path) -> Path:
        """The file of `deploy/`, with the ports of this test; `places` are files that it names."""
        text = (DEPLOY / self.kind / name).read_text(encoding="utf-8")
        text = re.sub(r"\b(8000|8080|3000)\b", lambda port: str(self._ports[port[0]]), text)
        for was, place in places.items():
            text = text.replace(f"/etc/{was}/nullpass.lua", str(place))
        path = self.folder / name
        path.write_text(text, encoding="utf-8")
        path.chmod(0o644)
        return path

    def _write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text, encoding="utf-8")
        return path

    def _nginx(self) -> list[str]:
        paths = "".join(f"    {kind}_temp_path {self.folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        main = f"""
daemon off;
worker_processes 1;
pid {self.folder}/pid;
error_log stderr warn;
{"user root;" if os.geteuid() == 0 else ""}
events {{}}
http {{
    access_log off;
{paths}
    include {self._shipped("nullpass.conf")};
}}
"""
        return [program("nginx"), "-p", str(self.folder), "-e", "stderr", "-c", str(self._write("nginx.conf", main))]

    def _apache(self) -> list[str]:
        lua = self._shipped("nullpass.lua")
        modules = "".join(f"LoadModule {m}_module /usr/lib/apache2/modules/mod_{m}.so\n" for m in ("mpm_event", "authz_core", "proxy", "proxy_http", "lua"))
        main = f"""
ServerRoot {self.folder}
ServerName localhost
PidFile {self.folder}/pid
DefaultRuntimeDir {self.folder}
Mutex file:{self.folder} default
ErrorLog {self.folder}/log
{modules}
User www-data
Group www-data
Include {self._shipped("nullpass.conf", apache2=lua)}
"""
        return [program("apache"), "-d", str(self.folder), "-f", str(self._write("apache.conf", main)), "-DFOREGROUND"]

    def _haproxy(self) -> list[str]:
        return [program("haproxy"), "-db", "-f", str(self._shipped("haproxy.cfg", haproxy=self._shipped("nullpass.lua")))]

    def _caddy(self) -> list[str]:
        text = "{\n\tadmin off\n\tpersist_config off\n}\n" + self._shipped("Caddyfile").read_text(encoding="utf-8")
        return [program("caddy"), "run", "--adapter", "caddyfile", "--config", str(self._write("Caddyfile", text))]

    def _envoy(self) -> list[str]:
        return [program("envoy"), "-c", str(self._shipped("envoy.yaml")), "--disable-hot-restart", "--concurrency", "1", "-l", "warning"]
