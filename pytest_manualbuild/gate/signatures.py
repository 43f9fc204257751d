"""OpenSSH signatures: people sign with the keys they have, ``ssh-keygen`` itself makes and checks.

Each role has a namespace of its own, so that a signature of one is never one of another. Who may
sign for which role stands in a file in the form of OpenSSH's ``allowed_signers``; see
``ssh-keygen(1)``, ALLOWED SIGNERS. We read less than OpenSSH does: what makes one signature count
for several people is refused.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

import msgspec

from pytest_manualbuild.errors import PolicyError, SignatureError

VERIFY_S = 20.0
SIGN_S = 120.0
"""Time for a passphrase, or for the touch of a hardware key."""
MOST_SIGNATURE = 64 << 10
_LINE = re.compile(
    r'(?P<principal>\S+)[ \t]+(?P<options>[a-z-]+(?:="[^"]*")?(?:,[a-z-]+(?:="[^"]*")?)*)[ \t]+'
    r"(?P<type>[a-z0-9@.-]+)[ \t]+(?P<key>[A-Za-z0-9+/]+={0,2})(?:[ \t].*)?"
)
_OPTION = re.compile(r'([a-z-]+)(?:="([^"]*)")?(?:,|$)')
_PRINCIPAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,127}")
_NAMESPACE = re.compile(r"[A-Za-z0-9._@/+-]+")
_VALID = re.compile(r"\d{8}(\d{4}(\d{2})?)?Z?")
_ARMOUR = re.compile(
    rb"\s*-----BEGIN SSH SIGNATURE-----\s([A-Za-z0-9+/=\s]+)-----END SSH SIGNATURE-----\s*"
)


class Role(StrEnum):
    """What a signature says."""

    REPORT = "report"  # I built this and ran these tests
    APPROVE = "approve"  # I looked at it, and it may go out
    WAIVER = "waiver"  # this check does not matter for now

    @property
    def namespace(self) -> str:
        """Return the namespace of the role's signatures."""
        return f"manualbuild-{self}@v1"


class Signer(msgspec.Struct, frozen=True, kw_only=True):
    """One key of one person, as a line of the file says."""

    principal: str
    key: str
    """Type and base64, as in a public key file."""
    namespaces: tuple[str, ...]
    valid_after: str | None = None
    """As OpenSSH writes it, ``YYYYMMDD[HHMM[SS]]``; without a zone, in UTC."""
    valid_before: str | None = None

    @property
    def blob(self) -> bytes:
        """Return the public key as OpenSSH encodes it."""
        return base64.b64decode(self.key.split()[1])

    @property
    def fingerprint(self) -> str:
        """Return what names the key in OpenSSH's messages, such as ``SHA256:…``."""
        digest = hashlib.sha256(self.blob).digest()
        return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"

    @property
    def line(self) -> str:
        """Return the line of an ``allowed_signers`` file."""
        options = [f'namespaces="{",".join(self.namespaces)}"']
        options += [f'valid-after="{self.valid_after}"'] if self.valid_after else []
        options += [f'valid-before="{self.valid_before}"'] if self.valid_before else []
        return f"{self.principal} {','.join(options)} {self.key}\n"


class AllowedSigners(msgspec.Struct, frozen=True, kw_only=True):
    """Whose signatures count, and which keys are revoked."""

    signers: tuple[Signer, ...]
    revoked: bytes = b""
    """A list of public keys, or a revocation list (KRL) of ``ssh-keygen -k``."""

    def may(self, principal: str, role: Role) -> bool:
        """Say whether that person has a key for that role."""
        return any(
            signer.principal == principal and role.namespace in signer.namespaces
            for signer in self.signers
        )


class Signature(msgspec.Struct, frozen=True, kw_only=True):
    """A signature that holds: who made it, with which key."""

    principal: str
    fingerprint: str
    role: Role


def load(path: Path, revoked: Path | None = None) -> AllowedSigners:
    """Read an ``allowed_signers`` file, and the file of revoked keys beside it.

    Each line is ``PRINCIPAL namespaces="NS[,NS]"[,valid-after="…"][,valid-before="…"] KEY``. One
    key belongs to one person. Raises PolicyError with file and line for anything else.
    """
    signers: list[Signer] = []
    # Only at what is a line's end to OpenSSH and to editors: others could end a comment unseen.
    for number, text in enumerate(_read(path).decode(errors="replace").split("\n"), start=1):
        if text.strip() and not text.lstrip().startswith("#"):
            try:
                signer = _signer(text.strip())
                _one_owner(signer, signers)
            except ValueError as error:
                raise PolicyError(
                    f"{path}:{number}: {error}.",
                    remedy='Write PRINCIPAL namespaces="…" KEYTYPE KEY.',
                ) from error
            signers.append(signer)
    if not signers:
        raise PolicyError(f"{path}: nobody may sign.", remedy="Add a line for each signer.")
    return AllowedSigners(signers=tuple(signers), revoked=_read(revoked) if revoked else b"")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise PolicyError(
            f"{path}: cannot be read: {reason}.", remedy="Check [signers] of the policy."
        ) from error


def _signer(text: str) -> Signer:
    found = _LINE.fullmatch(text)
    if found is None:
        raise ValueError("not a line of a signer with his namespaces")
    principal = found["principal"]
    if not _PRINCIPAL.fullmatch(principal):
        # `*@example.org` would verify as any name, and `a,b` as either.
        raise ValueError(f"{principal!r} is not the name of one person: no *, ?, ! or comma in it")
    pairs = _OPTION.findall(found["options"])
    options = dict(pairs)
    if len(options) != len(pairs):
        raise ValueError("an option is given twice")
    namespaces = tuple(options.pop("namespaces", "").split(","))
    if not all(_NAMESPACE.fullmatch(name) for name in namespaces):
        raise ValueError('namespaces="…" must name each namespace in full')
    after, before = options.pop("valid-after", None), options.pop("valid-before", None)
    if not all(_VALID.fullmatch(day) for day in (after, before) if day is not None):
        raise ValueError("a validity is not written as YYYYMMDD[HHMM[SS]]")
    if options:
        raise ValueError(f"the option {next(iter(options))} is not supported")
    if "-cert-" in found["type"]:
        raise ValueError("certificates are not supported, only keys")
    signer = Signer(
        principal=principal,
        key=f"{found['type']} {found['key']}",
        namespaces=namespaces,
        valid_after=after,
        valid_before=before,
    )
    _kind, size = found["type"].encode(), signer.blob[:4]
    if signer.blob[4 : 4 + int.from_bytes(size)] != _kind:
        raise ValueError(f"the key is not one of type {found['type']}")
    return signer


def _one_owner(signer: Signer, others: list[Signer]) -> None:
    for other in others:
        if other.blob == signer.blob:
            # Two lines of a key could also give it two validities, of which one holds longer.
            raise ValueError(f"this key stands there already, for {other.principal}")
        names = {signer.principal, other.principal}
        if len(names) > len({name.lower() for name in names}):
            raise ValueError(f"{' and '.join(sorted(names))} may be one person: write it as one")


def sign(file: Path, key: Path, role: Role) -> Path:
    """Sign a file; return the signature's file, ``FILE.sig``, which replaces an older one.

    ``key`` is a private key, or a public one whose private half the SSH agent has. Raises
    SignatureError.
    """
    with tempfile.TemporaryDirectory(prefix="manualbuild-") as scratch:
        copy = Path(scratch) / "signed"
        shutil.copyfile(file, copy)
        # The terminal stays, for a passphrase; standard input is closed, so that nothing hangs.
        _ssh_keygen("-Y", "sign", "-f", str(key), "-n", role.namespace, str(copy), limit_s=SIGN_S)
        fresh = file.with_name(f".{file.name}.sig.new")
        shutil.copyfile(Path(scratch) / "signed.sig", fresh)
    return fresh.replace(file.with_name(f"{file.name}.sig"))


def verify(
    data: bytes, signature: bytes, role: Role, allowed: AllowedSigners, at: datetime
) -> Signature:
    """Check a signature over bytes; return who made it, or raise SignatureError.

    ``at`` is the time at which the key must be valid: now, or a time from a source that the
    signer does not control, never one from what was signed.
    """
    blob = _public_key(signature)
    signer = next((one for one in allowed.signers if one.blob == blob), None)
    if signer is None:
        raise _refused("the key is not one of the allowed signers")
    if role.namespace not in signer.namespaces:
        raise _refused(f"{signer.principal} may not sign for the role {role}")
    with tempfile.TemporaryDirectory(prefix="manualbuild-") as scratch:
        folder = Path(scratch)
        # One line only: nothing else in the file can make the signature count for another person.
        (folder / "allowed").write_text(signer.line)
        (folder / "sig").write_bytes(signature)
        words = ["-f", str(folder / "allowed"), "-I", signer.principal, "-n", role.namespace]
        words += ["-s", str(folder / "sig"), "-O", f"verify-time={at.astimezone(UTC):%Y%m%d%H%M%S}"]
        if allowed.revoked:
            (folder / "revoked").write_bytes(allowed.revoked)
            words += ["-r", str(folder / "revoked")]
        _ssh_keygen("-Y", "verify", *words, data=data, limit_s=VERIFY_S)
    return Signature(principal=signer.principal, fingerprint=signer.fingerprint, role=role)


def _public_key(signature: bytes) -> bytes:
    """Return the key that a signature names (PROTOCOL.sshsig), for finding its owner only."""
    armour = _ARMOUR.fullmatch(signature) if len(signature) <= MOST_SIGNATURE else None
    if armour is None:
        raise _refused("it is not an OpenSSH signature")
    try:
        blob = base64.b64decode(b"".join(armour[1].split()), validate=True)
    except binascii.Error as error:
        raise _refused("it is not an OpenSSH signature") from error
    if blob[:10] != b"SSHSIG\0\0\0\1":
        raise _refused("it is not an OpenSSH signature")
    return blob[14 : 14 + int.from_bytes(blob[10:14])]


def _refused(problem: str) -> SignatureError:
    return SignatureError(
        f"{problem}.", remedy="Have it signed by somebody whom the policy allows."
    )


def _ssh_keygen(*words: str, limit_s: float, data: bytes | None = None) -> None:
    program = shutil.which("ssh-keygen")
    if program is None:
        raise SignatureError("There is no ssh-keygen.", remedy="Install OpenSSH 8.9 or later.")
    try:
        done = subprocess.run(
            [program, *words],
            input=data,
            stdin=subprocess.DEVNULL if data is None else None,
            capture_output=True,
            timeout=limit_s,
            check=False,
            # In UTC, validity dates mean the same to everybody.
            env={**os.environ, "TZ": "UTC", "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired as error:
        raise SignatureError(
            f"ssh-keygen did not end within {limit_s:.0f} s.", remedy="Run it again."
        ) from error
    if done.returncode != 0:
        # It says nothing about a key that is revoked, or about a list of them that is broken.
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["the key is revoked"]
        # Above its complaint of a key that others can read it draws a box.
        open_ = next((line for line in said if line.endswith("are too open.")), None)
        if open_ is not None:
            raise SignatureError(f"ssh-keygen refused: {open_}", remedy="Run chmod 600 on it.")
        reason = said[0].partition("/allowed:1: ")[2] or said[0]
        raise SignatureError(f"ssh-keygen refused: {reason}.", remedy="Check the key and the file.")
