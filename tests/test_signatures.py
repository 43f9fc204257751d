"""Signatures are checked by the real ssh-keygen, and whatever is doubtful is refused."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import key_pair
from pytest_manualbuild.errors import PolicyError, SignatureError
from pytest_manualbuild.gate import signatures
from pytest_manualbuild.gate.signatures import AllowedSigners, Role

NOW = datetime(2026, 11, 24, tzinfo=UTC)
ALL = ",".join(role.namespace for role in Role)


def line(keys: Path, name: str, options: str = f'namespaces="{ALL}"', who: str = "") -> str:
    return f"{who or name} {options} {(keys / f'{name}.pub').read_text()}"


def allowed(tmp_path: Path, *lines: str, revoked: Path | None = None) -> AllowedSigners:
    (tmp_path / "allowed_signers").write_text("# who may sign\n\n" + "".join(lines))
    return signatures.load(tmp_path / "allowed_signers", revoked)


def signed(tmp_path: Path, key: Path, role: Role = Role.REPORT) -> tuple[bytes, bytes]:
    file = tmp_path / "evidence.json"
    file.write_text('{"a": 1}\n')
    return file.read_bytes(), signatures.sign(file, key, role).read_bytes()


@pytest.mark.parametrize("name", ["alice", "bob", "carol"])
def test_a_good_signature_names_the_person_and_the_key(
    keys: Path, tmp_path: Path, name: str
) -> None:
    data, signature = signed(tmp_path, keys / name)
    who = allowed(tmp_path, *(line(keys, one) for one in ("alice", "bob", "carol")))

    found = signatures.verify(data, signature, Role.REPORT, who, NOW)

    said = subprocess.run(["ssh-keygen", "-l", "-f", keys / name], capture_output=True, check=True)
    assert found.principal == name
    assert found.fingerprint in said.stdout.decode()


def test_a_key_that_others_can_read_is_refused_in_words(keys: Path, tmp_path: Path) -> None:
    key = tmp_path / "open"
    key.write_bytes((keys / "alice").read_bytes())
    key.chmod(0o644)
    with pytest.raises(SignatureError, match=r"refused: Permissions 0644 .*open' are too open"):
        signed(tmp_path, key)


def test_signing_again_replaces_the_signature_and_asks_nothing(keys: Path, tmp_path: Path) -> None:
    signed(tmp_path, keys / "alice")

    data, signature = signed(tmp_path, keys / "bob")

    who = allowed(tmp_path, line(keys, "bob"))
    assert signatures.verify(data, signature, Role.REPORT, who, NOW).principal == "bob"


@pytest.mark.parametrize("made", Role)
@pytest.mark.parametrize("asked", Role)
def test_a_signature_of_one_role_is_none_of_another(
    keys: Path, tmp_path: Path, made: Role, asked: Role
) -> None:
    data, signature = signed(tmp_path, keys / "alice", made)
    who = allowed(tmp_path, line(keys, "alice"))
    if made is asked:
        assert signatures.verify(data, signature, asked, who, NOW).role is asked
        return
    with pytest.raises(SignatureError, match="namespace does not match"):
        signatures.verify(data, signature, asked, who, NOW)


@pytest.mark.parametrize("end", ["\u2028", "\x85", "\x0b", "\x0c", "\r"])
def test_no_signer_stands_in_a_comment(keys: Path, tmp_path: Path, end: str) -> None:
    """Where Python sees a new line, and whoever reviews the file a remark."""
    hidden = f"# a remark{end}{line(keys, 'mallory')}"

    who = allowed(tmp_path, line(keys, "alice"), hidden)

    assert [one.principal for one in who.signers] == ["alice"]


def test_one_person_under_two_spellings_is_refused(keys: Path, tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="Alice and alice may be one person"):
        allowed(tmp_path, line(keys, "alice"), line(keys, "bob", who="Alice"))


def test_a_key_signs_only_for_the_roles_of_its_line(keys: Path, tmp_path: Path) -> None:
    data, signature = signed(tmp_path, keys / "alice", Role.APPROVE)
    who = allowed(tmp_path, line(keys, "alice", f'namespaces="{Role.REPORT.namespace}"'))
    with pytest.raises(SignatureError, match="may not sign for the role approve"):
        signatures.verify(data, signature, Role.APPROVE, who, NOW)


def test_unknown_and_tampered_are_refused(keys: Path, tmp_path: Path) -> None:
    data, signature = signed(tmp_path, keys / "alice")
    with pytest.raises(SignatureError, match="not one of the allowed"):
        signatures.verify(data, signature, Role.REPORT, allowed(tmp_path, line(keys, "bob")), NOW)
    who = allowed(tmp_path, line(keys, "alice"))
    with pytest.raises(SignatureError, match="incorrect signature"):
        signatures.verify(data + b" ", signature, Role.REPORT, who, NOW)
    for other in (b"", b"x", signature[:-40], signature * 2, signature + b"x" * (1 << 20)):
        with pytest.raises(SignatureError):
            signatures.verify(data, other, Role.REPORT, who, NOW)


@pytest.mark.parametrize(
    ("validity", "says"),
    [
        ('valid-before="20260101"', "expired"),
        ('valid-after="20270101"', "not yet valid"),
        ('valid-after="20260101",valid-before="20270101"', ""),
        ('valid-before="20261124000001"', ""),
        ('valid-before="202611232359"', "expired"),
    ],
)
def test_a_key_counts_between_its_dates_only(
    keys: Path, tmp_path: Path, validity: str, says: str
) -> None:
    data, signature = signed(tmp_path, keys / "alice")
    who = allowed(tmp_path, line(keys, "alice", f'namespaces="{ALL}",{validity}'))
    if not says:
        assert signatures.verify(data, signature, Role.REPORT, who, NOW).principal == "alice"
        return
    with pytest.raises(SignatureError, match=says):
        signatures.verify(data, signature, Role.REPORT, who, NOW)


@pytest.mark.parametrize("form", ["list", "krl"])
def test_a_revoked_key_is_refused(keys: Path, tmp_path: Path, form: str) -> None:
    data, signature = signed(tmp_path, keys / "alice")
    revoked = keys / "alice.pub"
    if form == "krl":
        revoked = tmp_path / "krl"
        subprocess.run(["ssh-keygen", "-q", "-k", "-f", revoked, keys / "alice.pub"], check=True)
    lines = (line(keys, "alice"), line(keys, "bob"))
    with pytest.raises(SignatureError, match="revoked"):
        signatures.verify(
            data, signature, Role.REPORT, allowed(tmp_path, *lines, revoked=revoked), NOW
        )
    data, signature = signed(tmp_path, keys / "bob")
    who = allowed(tmp_path, *lines, revoked=revoked)
    assert signatures.verify(data, signature, Role.REPORT, who, NOW).principal == "bob"


def test_a_list_of_revoked_keys_that_cannot_be_read_refuses_all(keys: Path, tmp_path: Path) -> None:
    data, signature = signed(tmp_path, keys / "alice")
    (tmp_path / "revoked").write_text("no key\n")
    who = allowed(tmp_path, line(keys, "alice"), revoked=tmp_path / "revoked")
    with pytest.raises(SignatureError):
        signatures.verify(data, signature, Role.REPORT, who, NOW)
    with pytest.raises(PolicyError, match="cannot be read"):
        allowed(tmp_path, line(keys, "alice"), revoked=tmp_path / "none")


@pytest.mark.parametrize(
    ("who", "options", "says"),
    [
        ("*@example.org", "", "one person"),
        ("*", "", "one person"),
        ("alic?", "", "one person"),
        ("!bob", "", "one person"),
        ("alice,bob", "", "one person"),
        ('"alice"', "", "one person"),
        ("alice", 'namespaces="*"', "in full"),
        ("alice", 'namespaces="!file,manualbuild-report@v1"', "in full"),
        ("alice", 'namespaces=""', "in full"),
        ("alice", 'valid-before="20270101"', "in full"),
        ("alice", f'namespaces="{ALL}",cert-authority', "cert-authority is not supported"),
        ("alice", f'namespaces="{ALL}",namespaces="x"', "twice"),
        ("alice", f'namespaces="{ALL}",valid-before="soon"', "YYYYMMDD"),
        ("alice", f'namespaces="{ALL}" ssh-rsa', "not a line of a signer"),
        ("alice", f'Namespaces="{ALL}"', "not a line of a signer"),
    ],
)
def test_a_line_that_could_mean_several_people_is_refused(
    keys: Path, tmp_path: Path, who: str, options: str, says: str
) -> None:
    with pytest.raises(PolicyError, match=says) as caught:
        allowed(tmp_path, line(keys, "alice", options or f'namespaces="{ALL}"', who))
    assert "allowed_signers:3:" in caught.value.problem


def test_one_key_is_one_person(keys: Path, tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="for alice"):
        allowed(tmp_path, line(keys, "alice"), line(keys, "alice", who="bob"))
    with pytest.raises(PolicyError, match="nobody may sign"):
        allowed(tmp_path)


def test_a_key_with_a_passphrase_does_not_hang(tmp_path: Path) -> None:
    key_pair(tmp_path / "locked", passphrase="secret words")
    (tmp_path / "file").write_text("x")
    code = (
        "from pathlib import Path; from pytest_manualbuild.gate import signatures as s\n"
        "s.sign(Path('file'), Path('locked'), s.Role.REPORT)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, timeout=60, check=False,
        start_new_session=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert b"SignatureError" in done.stderr
    assert not (tmp_path / "file.sig").exists()


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200))
def test_any_text_is_signers_or_one_clear_error(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "wild"
    path.write_text(text, encoding="utf-8", errors="replace")
    try:
        signatures.load(path)
    except PolicyError as error:
        assert "wild" in error.problem
