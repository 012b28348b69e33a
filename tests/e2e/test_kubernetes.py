"""deploy/kubernetes, rendered by kubectl and read back: what must hold for the pod to be safe and to work."""

from __future__ import annotations

import base64
import os
import secrets
import shutil
import subprocess
import tomllib

import pytest
import yaml

from harness import ROOT, binary, clean_environment

FOLDER = ROOT / "deploy" / "kubernetes"
PORT, ADMIN = 8080, 9090


@pytest.fixture(scope="module")
def objects() -> dict[str, list[dict]]:
    """The rendered objects by kind."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed")
    done = subprocess.run([kubectl, "kustomize", str(FOLDER)], capture_output=True, text=True, check=False, env=clean_environment())
    assert done.returncode == 0, done.stderr
    assert not done.stderr.strip(), f"warnings: {done.stderr}"
    kinds: dict[str, list[dict]] = {}
    for document in yaml.safe_load_all(done.stdout):
        kinds.setdefault(document["kind"], []).append(document)
    return kinds


@pytest.fixture(scope="module")
def deployment(objects) -> dict:
    (deployment,) = objects["Deployment"]
    return deployment


@pytest.fixture(scope="module")
def pod(deployment) -> dict:
    return deployment["spec"]["template"]["spec"]


@pytest.fixture(scope="module")
def sidecar(pod) -> dict:
    (sidecar,) = [c for c in pod["initContainers"] if c["name"] == "nullpass"]
    return sidecar


@pytest.fixture(scope="module")
def application(pod) -> dict:
    (application,) = pod["containers"]
    return application


@pytest.fixture(scope="module")
def config(objects, sidecar, pod) -> dict:
    """nullpass.toml as the pod mounts it."""
    (config_map,) = objects["ConfigMap"]
    volume = next(v for v in pod["volumes"] if "configMap" in v)
    assert volume["configMap"]["name"] == config_map["metadata"]["name"], "the generated name is the one that is mounted"
    mount = next(m for m in sidecar["volumeMounts"] if m["name"] == volume["name"])
    assert f"{mount['mountPath']}/nullpass.toml" in " ".join(sidecar["args"])
    return tomllib.loads(config_map["data"]["nullpass.toml"])


def test_everything_is_there(objects):
    assert set(objects) == {"Deployment", "Service", "ConfigMap", "Secret", "PersistentVolumeClaim", "NetworkPolicy"}


def test_nullpass_is_a_native_sidecar(sidecar):
    assert sidecar["restartPolicy"] == "Always"
    assert "startupProbe" in sidecar, "the application starts when nullpass has"


def test_one_replica_that_is_stopped_before_the_next_one_starts(deployment):
    assert deployment["spec"]["replicas"] == 1
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}


def test_both_containers_may_do_nothing_they_need_not(pod, sidecar, application):
    assert pod["securityContext"]["runAsNonRoot"] is True and pod["securityContext"]["fsGroup"] == 65532
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    for container in (sidecar, application):
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True and context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["limits"]["memory"] and container["resources"]["requests"]["cpu"]
    assert sidecar["securityContext"]["runAsUser"] == 65532


def test_every_probe_goes_through_the_admin_listener(config, sidecar, application):
    assert config["admin"]["listen"] == f"0.0.0.0:{ADMIN}"
    for kind, path in (("startupProbe", "/healthz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
        probe = sidecar[kind]["httpGet"]
        assert (probe["path"], probe["port"]) == (path, ADMIN)
    for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
        if kind in application:
            probe = application[kind]["httpGet"]
            assert (probe["path"], probe["port"]) == ("/upstreams/app/health", ADMIN)
    assert "livenessProbe" in application and "readinessProbe" in application


def test_the_application_listens_on_loopback_only(config, application):
    command = " ".join(application.get("command", []) + application.get("args", []))
    (upstream,) = config["upstreams"]
    assert upstream["name"] == "app" and upstream["url"].startswith("http://127.0.0.1:") and upstream["health"]["path"]
    port = upstream["url"].rsplit(":", 1)[1]
    assert "127.0.0.1" in command and port in command
    assert "ports" not in application and "hostPort" not in str(application)


def test_the_service_leads_to_nullpass(objects, deployment, sidecar, config):
    (service,) = objects["Service"]
    (port,) = service["spec"]["ports"]
    assert port["targetPort"] == PORT and PORT in [p["containerPort"] for p in sidecar["ports"]]
    assert config["server"]["listen"] == [f"0.0.0.0:{PORT}"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_the_network_policy_lets_nobody_past_nullpass(objects, deployment):
    (policy,) = objects["NetworkPolicy"]
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= deployment["spec"]["template"]["metadata"]["labels"].items()
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    opened = {p["port"]: rule["from"] for rule in policy["spec"]["ingress"] for p in rule["ports"]}
    assert set(opened) == {PORT, ADMIN}
    assert all(opened.values()), "each port names who may"
    assert "monitoring" in str(opened[ADMIN]) and "monitoring" not in str(opened[PORT])


def test_the_data_folder_is_a_volume_of_its_own(objects, pod, sidecar, application, config):
    (claim,) = objects["PersistentVolumeClaim"]
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"] and claim["spec"]["resources"]["requests"]["storage"]
    volume = next(v for v in pod["volumes"] if "persistentVolumeClaim" in v)
    assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    mount = next(m for m in sidecar["volumeMounts"] if m["name"] == volume["name"])
    assert mount["mountPath"] == config["storage"]["path"] == "/data"
    assert volume["name"] not in [m["name"] for m in application.get("volumeMounts", [])], "the application can't read it"


def test_the_master_key_is_a_file_from_the_secret(objects, pod, sidecar, application, config):
    (secret,) = objects["Secret"]
    volume = next(v for v in pod["volumes"] if "secret" in v)
    assert volume["secret"]["secretName"] == secret["metadata"]["name"]
    assert volume["secret"]["defaultMode"] in (0o440, 0o400)
    mount = next(m for m in sidecar["volumeMounts"] if m["name"] == volume["name"])
    assert mount["readOnly"] is True
    assert config["storage"]["master_key_file"] in [f"{mount['mountPath']}/{key}" for key in secret["stringData"]]
    assert volume["name"] not in [m["name"] for m in application.get("volumeMounts", [])]


def test_there_is_time_to_stop(config, pod, application):
    seconds = lambda text: int(text.removesuffix("s"))  # noqa: E731
    delay, grace = seconds(config["server"]["shutdown_delay"]), seconds(config["server"]["shutdown_grace"])
    wait = application["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert delay == 5 and wait >= 5, "the application stays until nobody is sent here any more"
    assert pod["terminationGracePeriodSeconds"] > wait + delay + grace


def _check(config: dict, objects: dict, tmp_path, key: str) -> subprocess.CompletedProcess:
    """`nullpass config check` of the ConfigMap's text with the key's file where it can be."""
    (config_map,) = objects["ConfigMap"]
    file = tmp_path / "master.key"
    file.write_text(key)
    file.chmod(0o440)
    text = config_map["data"]["nullpass.toml"].replace(config["storage"]["master_key_file"], str(file)).replace('"/data"', f'"{tmp_path}/data"')
    (tmp_path / "nullpass.toml").write_text(text)
    return subprocess.run([binary(), "config", "check", "--config", str(tmp_path / "nullpass.toml")], capture_output=True, text=True, check=False, env=clean_environment(), cwd=tmp_path)


def test_nullpass_accepts_the_config_map(objects, config, tmp_path):
    key = base64.b64encode(secrets.token_bytes(32)).decode()
    done = _check(config, objects, tmp_path, key + "\n")
    assert done.returncode == 0, done.stdout + done.stderr
    assert key not in done.stdout


def test_nullpass_refuses_the_key_that_the_example_holds(objects, config, tmp_path):  # NP-4
    (secret,) = objects["Secret"]
    done = _check(config, objects, tmp_path, next(iter(secret["stringData"].values())))
    assert done.returncode == 2, "the example's key must never be good for anything"
    assert "master_key" in done.stdout + done.stderr


def test_the_image_is_ours(sidecar):
    assert sidecar["image"].startswith("ghcr.io/nullpass/nullpass:") and not sidecar["image"].endswith(":latest")
    assert os.path.exists(ROOT / "Dockerfile")
