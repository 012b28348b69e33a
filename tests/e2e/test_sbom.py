"""`deploy/sbom`: the list of what a binary is made of is valid CycloneDX, complete, and the same each time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from harness import ROOT


@pytest.fixture(scope="module")
def text() -> str:
    return written()


def written(**environment: str) -> str:
    command = [sys.executable, ROOT / "deploy/sbom"]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=120, env=os.environ | environment).stdout


def test_it_is_valid(text):
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    assert (problem := validator.validate_str(text)) is None, problem
    # The validator does find what is wrong.
    assert validator.validate_str(json.dumps(json.loads(text) | {"components": [{"type": "library"}]})) is not None


def test_it_names_what_the_binary_is_made_of(text):
    bom = json.loads(text)
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text(encoding="utf-8"))["package"]
    pinned = {f"pkg:cargo/{package['name']}@{package['version']}": package.get("checksum") for package in lock}
    listed = {component["purl"]: component for component in bom["components"]}
    assert len(listed) == len(bom["components"]) and 200 < len(listed) < len(pinned)
    for purl, component in listed.items():
        assert component["hashes"] == [{"alg": "SHA-256", "content": pinned[purl]}] and component["licenses"], purl
    linked = {component["name"] for component in bom["components"] if component["scope"] == "required"}
    assert {"hyper", "rustls", "aws-lc-rs", "jsonwebtoken", "argon2", "sled", "tokio-postgres", "aes-gcm"} <= linked
    # What runs while it is built, and what only tests use.
    built = {component["name"] for component in bom["components"]} - linked
    assert "cc" in built and not {"proptest", "tempfile"} & linked
    # The graph is whole: everything that is named is there, and everything is reached from nullpass.
    needs = {entry["ref"]: entry["dependsOn"] for entry in bom["dependencies"]}
    root = bom["metadata"]["component"]["bom-ref"]
    assert set(needs) == set(listed) | {root}
    reached, waiting = set(), [root]
    while waiting:
        if (one := waiting.pop()) not in reached:
            reached.add(one)
            waiting += needs[one]
    assert reached == set(needs)


def test_it_is_the_same_each_time(text):
    dated = json.loads(written(SOURCE_DATE_EPOCH="1800000000"))
    assert dated["metadata"].pop("timestamp") == "2027-01-15T08:00:00+00:00"
    assert dated | {"serialNumber": ""} == json.loads(text) | {"serialNumber": ""} and json.loads(text)["serialNumber"] != dated["serialNumber"]
    assert str(ROOT) not in text and "/root/" not in text and "file://" not in text


def test_deny_toml_allows_what_there_is(text):
    """What `cargo deny check` says of licences and of what it is told to overlook, where that is not installed."""
    deny = tomllib.loads((ROOT / "deny.toml").read_text(encoding="utf-8"))
    allowed = set(deny["licenses"]["allow"])
    for component in json.loads(text)["components"]:
        for licence in component["licenses"]:
            expression = licence["expression"].replace("(", " ( ").replace(")", " ) ").replace(" WITH ", "_WITH_")
            words = [word if word in ("(", ")") else {"OR": "or", "AND": "and"}.get(word, str(word.replace("_WITH_", " WITH ") in allowed)) for word in expression.split()]
            assert eval(" ".join(words)) is True, (component["purl"], licence)  # noqa: S307: of these words alone
    names = {component["name"] for component in json.loads(text)["components"]}
    assert {"fxhash", "instant"} <= names, "an advisory in deny.toml is about what is not there any more"
    assert not {ban["name"] for ban in deny["bans"]["deny"]} & names
