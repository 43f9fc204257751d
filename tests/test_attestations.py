"""Sigstore, offline: real bundles from the source archive of `pypi-attestations`."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from conftest import manualbuild
from pytest_manualbuild import attestations, package
from pytest_manualbuild.errors import SignatureError
from pytest_manualbuild.gate.policy import Identity

VERSION = "0.0.30"
NAME = "pypi_attestation_models-0.0.4a2.tar.gz.sigstore"
ISSUER = "https://token.actions.githubusercontent.com"
WHO = ("https://github.com/trailofbits/pypi-attestation-models/.github/workflows/release.yml"
       "@refs/tags/v0.0.4a2")  # fmt: skip
POLICY = f'[sigstore]\nidentity = "{WHO}"\nissuer = "{ISSUER}"\n'
MINE = Identity(identity=WHO, issuer=ISSUER)
PUBLISH = "https://schemas.conda.org/attestations-publish-1.schema.json"


@pytest.fixture(scope="module")
def bundle() -> bytes:
    """A bundle that a release workflow signed and the public log recorded."""
    pytest.importorskip("sigstore")
    cache = Path(os.environ.get("MANUALBUILD_TEST_CACHE", "~/.cache/manualbuild-tests"))
    folder = cache.expanduser()
    archive = folder / f"pypi_attestations-{VERSION}.tar.gz"
    if not archive.is_file():
        done = subprocess.run(
            [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary",
             "pypi-attestations", "-d", str(folder), f"pypi-attestations=={VERSION}"],
            capture_output=True, text=True, timeout=120, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if done.returncode != 0:
            pytest.skip(f"pypi-attestations {VERSION} cannot be had: {done.stderr[-200:]}")
    with tarfile.open(archive) as opened:
        member = opened.extractfile(f"pypi_attestations-{VERSION}/test/assets/{NAME}")
        assert member is not None
        return member.read()


def test_a_real_bundle_holds_for_the_one_who_signed_it(bundle: bytes) -> None:
    value = json.loads(attestations.signed_statement(bundle, MINE))

    assert value["predicateType"] == "https://docs.pypi.org/attestations/publish/v1"
    assert value["subject"][0]["name"] == NAME.removesuffix(".sigstore")


@pytest.mark.parametrize(
    "who",
    [
        Identity(identity=WHO.replace("v0.0.4a2", "v0.0.4a3"), issuer=ISSUER),
        Identity(identity=WHO, issuer="https://accounts.google.com"),
        Identity(identity="alice@example.org", issuer=ISSUER),
    ],
)
def test_it_holds_for_nobody_else(bundle: bytes, who: Identity) -> None:
    with pytest.raises(SignatureError, match="does not hold"):
        attestations.signed_statement(bundle, who)


def test_every_part_of_it_counts(bundle: bytes) -> None:
    def refused(changed: bytes) -> None:
        with pytest.raises(SignatureError):
            attestations.signed_statement(changed, MINE)

    for data in (
        b"",
        b"{}",
        b"[" * 10_000,
        b"\xff",
        bundle[:-20],
        bundle.replace(b"v0.3", b"v0.9"),
    ):
        refused(data)
    value = json.loads(bundle)
    payload = base64.b64decode(value["dsseEnvelope"]["payload"]).replace(b"0.0.4a2", b"0.0.4a3")
    value["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
    refused(json.dumps(value).encode())
    value = json.loads(bundle)
    value["dsseEnvelope"]["payloadType"] = "text/plain"
    refused(json.dumps(value).encode())
    for key in ("tlogEntries", "certificate"):
        value = json.loads(bundle)
        del value["verificationMaterial"][key]
        refused(json.dumps(value).encode())
    value = json.loads(bundle)
    value["verificationMaterial"]["tlogEntries"][0]["integratedTime"] = "1"
    refused(json.dumps(value).encode())


def test_a_statement_must_be_of_this_package_and_channel(case: Path) -> None:
    artifact = package.read(next((case / "build_artifacts/noarch").iterdir()))
    channel = "https://conda.anaconda.org/conda-forge"
    good = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": artifact.filename, "digest": {"sha256": artifact.sha256}}],
        "predicateType": PUBLISH,
        "predicate": {"targetChannel": channel},
    }
    attestations.check(json.dumps(good).encode(), artifact, channel)
    attestations.check(json.dumps(good | {"predicate": None}).encode(), artifact, None)
    for change, where in (
        ({"subject": []}, channel),
        ({"subject": good["subject"] * 2}, channel),  # type: ignore[operator]
        ({"subject": [{"name": "x", "digest": {"sha256": artifact.sha256}}]}, channel),
        ({"subject": [{"name": artifact.filename, "digest": {"sha256": "0" * 64}}]}, channel),
        ({"subject": [{"name": artifact.filename,
                       "digest": {"sha256": artifact.sha256, "md5": "0"}}]}, channel),
        ({"predicateType": "https://docs.pypi.org/attestations/publish/v1"}, channel),
        ({"_type": "x"}, channel),
        ({"predicate": None}, channel),
        ({"predicate": []}, channel),
        ({}, f"{channel}/label/manual"),
    ):  # fmt: skip
        with pytest.raises(SignatureError):
            attestations.check(json.dumps(good | change).encode(), artifact, where)
    with pytest.raises(SignatureError, match="malformed"):
        attestations.check(b'{"_type": 1, "_type": 2}', artifact, None)


def test_the_verb_refuses_a_good_bundle_of_another_file(case: Path, bundle: bytes) -> None:
    (case / "policy.toml").write_text(POLICY)
    (case / "b.json").write_bytes(bundle)
    path = str(next((case / "build_artifacts/noarch").iterdir()))

    ran = manualbuild("verify-attestation", path, "b.json", "--policy", "policy.toml", cwd=case)

    assert (ran.status, "no statement of publishing" in ran.out) == (4, True), ran.out
    (case / "policy.toml").write_text("[gate]\n")
    ran = manualbuild("verify-attestation", path, "b.json", "--policy", "policy.toml", cwd=case)
    assert (ran.status, "names nobody" in ran.out, ran.out.count("\n")) == (4, True, 1), ran.out


@pytest.mark.parametrize(
    ("token", "says"),
    [("", "no identity to sign with"), ("canary-token-1234", "did not sign")],
)
def test_without_an_identity_nothing_is_signed(case: Path, token: str, says: str) -> None:
    pytest.importorskip("sigstore")
    words = ("request", "report", "--artifacts", "build_artifacts", "--user", "jane", "--sign")

    ran = manualbuild(*words, cwd=case, SIGSTORE_ID_TOKEN=token)

    assert (ran.status, says in ran.out, "Traceback" in ran.out) == (4, True, False), ran.out
    assert "canary" not in ran.out
    assert not (case / "report/request").exists()
