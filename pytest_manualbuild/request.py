"""What a request to copy packages into conda-forge needs, from a report that the gate accepts.

conda-forge's admin-requests carries out ``action: cfep3_copy`` (CFEP-03); its comparison of hashes
is with what the server says, so that the proven ones belong into the request.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

import msgspec
import yaml

from pytest_manualbuild import attestations, body, build_record
from pytest_manualbuild.attestations import PUBLISH
from pytest_manualbuild.build_record import Record
from pytest_manualbuild.errors import EvidenceError
from pytest_manualbuild.evidence import STATEMENT, Evidence, replace_file
from pytest_manualbuild.gate.policy import Policy
from pytest_manualbuild.gate.verdict import Decision, Verdict
from pytest_manualbuild.gate.verify import verify
from pytest_manualbuild.model import Artifact
from pytest_manualbuild.reports import markdown
from pytest_manualbuild.targets import as_label, as_owner
from pytest_manualbuild.upload import UploadRefused

FOLDER = "request"
FILES = (REQUEST, COPY, CHECKLIST) = ("cfep3_copy.yml", "copy.sh", "checklist.md")
STATEMENTS = "attestations"


class Copy(msgspec.Struct, frozen=True, kw_only=True):
    """From where to where packages are to be copied on anaconda.org."""

    owner: str
    label: str
    to_owner: str = "conda-forge"
    to_label: str = "main"

    @property
    def channel(self) -> str:
        """Return the URL of the channel that they are copied to, as in CEP 27."""
        label = "" if self.to_label == "main" else f"/label/{self.to_label}"
        return f"https://conda.anaconda.org/{self.to_owner}{label}"


def write(
    folder: Path, artifacts: Path | None, policy: Policy, copy: Copy, *, sign: bool = False
) -> list[Path]:
    """Write the files of a request below a folder of evidence; return them.

    With ``sign``, a Sigstore bundle for each package as well. Raises UploadRefused if the gate
    does not accept, UploadError for what is no label or owner, EvidenceError, or SignatureError.
    """
    for label in (copy.label, copy.to_label):
        as_label(label)
    for owner in (copy.owner, copy.to_owner):
        as_owner(owner)
    _remove(folder)
    verified = verify(folder, artifacts, policy)
    if verified.verdict.decision is not Decision.ACCEPT:
        raise UploadRefused(verified.verdict)
    packages = list(verified.files.values())
    files = {
        REQUEST: cfep3_copy(packages, copy),
        COPY: copy_commands(packages, copy),
        CHECKLIST: checklist(
            verified.evidence,
            verified.verdict,
            policy,
            packages,
            copy,
            builds=list(build_record.in_folder(folder, verified.evidence.logs)),
        ),
    }
    statements = {f"{STATEMENTS}/{one.filename}": publish_statement(one, copy) for one in packages}
    files |= {f"{name}.json": text for name, text in statements.items()}
    if sign:
        bundles = attestations.sign(statements)
        files |= {f"{name}.sigstore.json": text for name, text in bundles.items()}
    written = []
    try:
        for name, text in files.items():
            path = folder / FOLDER / name
            path.parent.mkdir(parents=True, exist_ok=True)
            _no_links(folder)
            replace_file(path, text.encode())
            written.append(path)
    except OSError as error:
        raise EvidenceError(
            f"{folder / FOLDER}: cannot be written: {error.strerror}.", remedy="Check the folder."
        ) from error
    return written


def _no_links(folder: Path) -> None:
    for path in (folder / FOLDER, folder / FOLDER / STATEMENTS):
        if path.is_symlink():
            raise EvidenceError(f"{path}: it is a link.", remedy="Remove it.")


def _remove(folder: Path) -> None:
    """Remove an earlier request, so that none is there if this one is refused.

    Only what a request consists of, and only where evidence is: a folder may just be called so.
    """
    if not body.is_body(folder):
        return
    _no_links(folder)
    old = folder / FOLDER
    try:
        for path in [*(old / name for name in FILES), *(old / STATEMENTS).glob("*.json")]:
            path.unlink(missing_ok=True)
        for path in (old / STATEMENTS, old):
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
    except OSError as error:
        raise EvidenceError(
            f"{old}: the earlier request cannot be removed: {error.strerror}.",
            remedy="Check the folder.",
        ) from error


def cfep3_copy(packages: Sequence[Artifact], copy: Copy) -> str:
    """Return the request for conda-forge's admin-requests, as YAML."""
    channel = copy.owner if copy.label == "main" else f"{copy.owner}/label/{copy.label}"
    value = {
        "action": "cfep3_copy",
        "anaconda_org_packages": [
            {"package": f"{channel}/{one.key}", "sha256": one.sha256} for one in packages
        ],
        "to_anaconda_org_label": copy.to_label,
    }
    return yaml.safe_dump(value, sort_keys=False, width=1000)


def copy_commands(packages: Sequence[Artifact], copy: Copy) -> str:
    """Return the commands for a core member who copies by hand: one for each file.

    Without the file, ``anaconda copy`` takes everything of that version, tested or not.
    """
    options = ["--from-label", copy.label, "--to-label", copy.to_label]
    options += ["--to-owner", copy.to_owner]
    lines = ["#!/bin/sh", "set -eu"]
    lines += [
        shlex.join(
            ["anaconda", "copy", *options, f"{copy.owner}/{one.name}/{one.version}/{one.key}"]
        )
        for one in packages
    ]
    return "\n".join(lines) + "\n"


def publish_statement(artifact: Artifact, copy: Copy) -> str:
    """Return the statement of CEP 27 for one package, unsigned.

    Unsigned it proves nothing; who has a Sigstore identity signs it.
    """
    value = {
        "_type": STATEMENT,
        "subject": [{"name": artifact.filename, "digest": {"sha256": artifact.sha256}}],
        "predicateType": PUBLISH,
        "predicate": {"targetChannel": copy.channel},
    }
    return json.dumps(value, indent=1) + "\n"


def _built(record: Record) -> str:
    """Return one line on a build, with what tells that the posted log is its log."""
    words = [f"log.txt, sha256 {record.log_sha256}", f"built with {record.tool}"]
    if record.config:
        words.append(f"variant {record.config.name}")
    if record.image:
        words.append(f"image {next(iter(record.image.digests), record.image.id)}")
    if record.sources:
        words.append(f"commit {record.sources.commit}" + " with changes" * record.sources.dirty)
    return f"    * {markdown.plain(', '.join(words))}"


def checklist(
    evidence: Evidence,
    verdict: Verdict,
    policy: Policy,
    packages: Sequence[Artifact],
    copy: Copy,
    *,
    builds: Sequence[Record] = (),
) -> str:
    """Return the text for the pull request: the questions that are asked there, and the proof."""
    numbers = sorted(
        {str(row.pr) for one in packages for row in policy.rows(one.name) if row.pr is not None}
    )
    lines = [
        "* [x] I want to copy an artifact following CFEP-3:",
        "  * [ ] Pinged the relevant feedstock team(s)",
        f"  * [{'x' if numbers else ' '}] Added a reference to the original PR"
        + f": {', '.join(numbers)}" * bool(numbers),
        "  * [x] Posted a link to the conda artifacts:",
        *(
            f"    * https://anaconda.org/{copy.owner}/{one.name}/{one.version}/download/{one.key}"
            for one in packages
        ),
        "  * [ ] Posted a link to the build logs",
        *map(_built, builds),
        "",
        "`manualbuild verify` accepts these packages:",
        "",
        f"- evidence sha256 `{verdict.evidence_sha256}`",
        *(f"- {markdown.plain(text)}" for text in verdict.notes),
        "",
    ]
    return "\n".join(lines) + markdown.render(evidence)
