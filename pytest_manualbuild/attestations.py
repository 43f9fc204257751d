"""Sigstore: signs the statement of CEP 27 for a package, and checks one against an identity.

Wants the extra ``pytest-manualbuild[sigstore]``. Signing needs an identity token and the public
services of Sigstore; checking needs neither, its trust root comes with the library. A statement
says who published what where, and nothing about tests.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType
from typing import Any

from pytest_manualbuild import strictjson
from pytest_manualbuild.errors import SignatureError
from pytest_manualbuild.evidence import STATEMENT
from pytest_manualbuild.gate.policy import Identity
from pytest_manualbuild.model import Artifact

PUBLISH = "https://schemas.conda.org/attestations-publish-1.schema.json"
"""The predicate type of CEP 27."""
TOKEN = "SIGSTORE_ID_TOKEN"  # noqa: S105 # the variable's name
MOST_BYTES = 1 << 20
_PAYLOAD = "application/vnd.in-toto+json"


def sign(statements: dict[str, str]) -> dict[str, str]:
    """Return a Sigstore bundle for each statement, by the same names.

    The identity is that of the token in ``SIGSTORE_ID_TOKEN``, or the one that a CI system gives.
    Raises SignatureError when there is none, or when it cannot be signed.
    """
    library = _library("oidc", "sign", "models", "dsse", "errors")
    token: str | None = None
    try:
        token = os.environ.get(TOKEN) or library["oidc"].detect_credential()
        if not token:
            raise _refused(
                "There is no identity to sign with.",
                f"Put an OpenID Connect token into {TOKEN}, or run it in CI that gives one.",
            )
        identity = library["oidc"].IdentityToken(token)
        trust = library["models"].ClientTrustConfig.production()
        with library["sign"].SigningContext.from_trust_config(trust).signer(identity) as signer:
            return {
                name: str(signer.sign_dsse(library["dsse"].Statement(text.encode())).to_json())
                for name, text in statements.items()
            }
    except SignatureError:
        raise
    except Exception as error:  # noqa: BLE001 # the library raises whatever its own raise
        # Without the cause: a token must end in no traceback.
        said = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        said = said.replace(token, "***") if token else said
        raise _refused(
            f"Sigstore did not sign: {said}.", "Check the token and the network."
        ) from None


def verify(bundle: Path, artifact: Artifact, identity: Identity, channel: str | None) -> None:
    """Check a bundle against the one who may publish, a package and the URL of a channel.

    ``channel`` None: any. Raises SignatureError with what does not fit.
    """
    check(signed_statement(_read(bundle), identity), artifact, channel)


def signed_statement(bundle: bytes, identity: Identity) -> bytes:
    """Return what a bundle of that identity says; SignatureError if it does not hold."""
    library = _library("models", "verify", "verify.policy")
    try:
        parsed = library["models"].Bundle.from_json(bundle)
        kind, payload = (
            library["verify"]
            .Verifier.production(offline=True)
            .verify_dsse(
                parsed,
                library["verify.policy"].Identity(
                    identity=identity.identity, issuer=identity.issuer
                ),
            )
        )
    except Exception as error:  # the library lets out errors of several others
        said = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise _refused(f"The bundle does not hold: {said}.", "Have it signed again.") from error
    if kind != _PAYLOAD:
        raise _refused("The bundle signs something else than a statement.", "Have it signed again.")
    return bytes(payload)


def check(statement: bytes, artifact: Artifact, channel: str | None) -> None:
    """Compare a statement with a package and a channel, as CEP 27 says; SignatureError."""
    try:
        value = strictjson.loads(statement)
        (subject,) = value["subject"]
        about = (subject["name"], subject["digest"])
        kinds = (value["_type"], value["predicateType"])
        target = (value.get("predicate") or {}).get("targetChannel")
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise _refused("The statement is malformed.", "Have it signed again.") from error
    if kinds != (STATEMENT, PUBLISH):
        raise _refused(f"It is no statement of publishing: {kinds[1]!r}.", "See CEP 27.")
    if about != (artifact.filename, {"sha256": artifact.sha256}):
        raise _refused(f"It is about another file: {about[0]!r}.", "Give the package's own bundle.")
    if channel is not None and target != channel.rstrip("/"):
        raise _refused(f"It is for the channel {target!r}.", "Have it signed for this one.")


def _read(path: Path) -> bytes:
    try:
        if not path.is_file() or path.stat().st_size > MOST_BYTES:
            raise _refused(f"{path}: there is no bundle, or it is too large.", "Check the path.")
        return path.read_bytes()
    except OSError as error:
        raise _refused(f"{path}: {error.strerror}.", "Check the path.") from error


def _library(*names: str) -> dict[str, Any]:
    from importlib import import_module  # noqa: PLC0415 # 0.6 s, and only with the extra

    found: dict[str, ModuleType] = {}
    try:
        for name in names:
            found[name] = import_module(f"sigstore.{name}")
    except ImportError as error:
        raise _refused(
            "Sigstore is not installed.", "Install it: pip install 'pytest-manualbuild[sigstore]'"
        ) from error
    return found


def _refused(problem: str, remedy: str) -> SignatureError:
    return SignatureError(problem, remedy=remedy)
