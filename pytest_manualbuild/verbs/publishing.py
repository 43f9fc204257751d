"""The verbs that publish what was proven: upload, request, verify-channel."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_manualbuild.reports.text import visible
from pytest_manualbuild.verbs import place

if TYPE_CHECKING:
    from pytest_manualbuild import upload

    Verbs = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 # argparse's type

NOTHING_CHECKED = 8


def add(verbs: Verbs) -> None:
    """Add these verbs to the parser of the command line."""
    upload = verbs.add_parser("upload", help="publish the packages of a report that is accepted")
    upload.add_argument("--to", required=True, metavar="anaconda|DIR")
    upload.add_argument("--label", metavar="LABEL", help="default: the policy's, else manual")
    upload.add_argument("--dry-run", action="store_true", help="do everything but publish")
    upload.set_defaults(verb=_upload)

    request = verbs.add_parser("request", help="write the request to copy them to conda-forge")
    request.add_argument("--label", metavar="LABEL", help="where they are; default: the policy's")
    request.add_argument("--to-owner", default="conda-forge", metavar="OWNER")
    request.add_argument("--to-label", default="main", metavar="LABEL")
    request.add_argument("--sign", action="store_true",
                         help="sign the statements of CEP 27 with Sigstore")  # fmt: skip
    request.set_defaults(verb=_request)

    attested = verbs.add_parser(
        "verify-attestation", help="check a package's Sigstore bundle against the policy"
    )
    attested.add_argument("package", type=Path, metavar="PACKAGE")
    attested.add_argument("bundle", type=Path, metavar="BUNDLE")
    attested.add_argument("--policy", type=Path, required=True, metavar="FILE")
    attested.add_argument("--channel", metavar="URL", help="where it is served; default: any")
    attested.set_defaults(verb=_verify_attestation)

    for parser in (upload, request):
        parser.add_argument("evidence", type=place, metavar="EVIDENCE")
        parser.add_argument("--artifacts", type=place, metavar="DIR")
        parser.add_argument("--policy", type=Path, metavar="FILE")
        parser.add_argument("--user", metavar="OWNER", help="the channel's owner on anaconda.org")

    watch = verbs.add_parser("verify-channel", help="judge what a label or a folder serves now")
    watch.add_argument("evidence", type=place, nargs="+", metavar="EVIDENCE",
                       help="folders of evidence, or folders of such")  # fmt: skip
    watch.add_argument("--of", required=True, metavar="anaconda|DIR")
    watch.add_argument("--user", metavar="OWNER", help="the channel's owner on anaconda.org")
    watch.add_argument("--label", metavar="LABEL", help="default: the policy's, else manual")
    watch.add_argument("--policy", type=Path, metavar="FILE")
    watch.set_defaults(verb=_verify_channel)


def _upload(arguments: argparse.Namespace) -> int:
    from pytest_manualbuild import upload  # noqa: PLC0415 # only what the verb needs
    from pytest_manualbuild.gate import policy  # noqa: PLC0415 # only what the verb needs

    try:
        receipt = upload.upload(
            arguments.evidence,
            artifacts=arguments.artifacts,
            policy=policy.load(arguments.policy),
            to=arguments.to,
            user=arguments.user,
            label=arguments.label,
            dry_run=arguments.dry_run,
        )
    except upload.UploadRefused as refused:
        return _refused(refused)
    sys.stdout.write(receipt.text())
    return 0


def _request(arguments: argparse.Namespace) -> int:
    from pytest_manualbuild import request, upload  # noqa: PLC0415 # as above
    from pytest_manualbuild.errors import UploadError  # noqa: PLC0415
    from pytest_manualbuild.gate import policy  # noqa: PLC0415 # as above

    loaded = policy.load(arguments.policy)
    owner = loaded.target.owner if arguments.user is None else arguments.user
    if owner is None:
        raise UploadError("Whose channel are they in?", remedy="Give it with --user OWNER.")
    copy = request.Copy(
        owner=owner,
        label=loaded.label() if arguments.label is None else arguments.label,
        to_owner=arguments.to_owner,
        to_label=arguments.to_label,
    )
    try:
        written = request.write(
            arguments.evidence, arguments.artifacts, loaded, copy, sign=arguments.sign
        )
    except upload.UploadRefused as refused:
        return _refused(refused)
    sys.stdout.write(written[0].read_text())
    for path in written:
        sys.stdout.write(f"# written: {path}\n")
    return 0


def _verify_attestation(arguments: argparse.Namespace) -> int:
    from pytest_manualbuild import attestations, package  # noqa: PLC0415 # as above
    from pytest_manualbuild.errors import PolicyError  # noqa: PLC0415
    from pytest_manualbuild.gate import policy  # noqa: PLC0415 # as above

    who = policy.load(arguments.policy).sigstore
    if who is None:
        raise PolicyError(
            f"{arguments.policy}: it names nobody for Sigstore.",
            remedy="Give a table [sigstore] with identity and issuer.",
        )
    artifact = package.read(arguments.package)
    attestations.verify(arguments.bundle, artifact, who, arguments.channel)
    sys.stdout.write(f"{artifact.key}  sha256 {artifact.sha256}: published by {who.identity}\n")
    return 0


def _verify_channel(arguments: argparse.Namespace) -> int:
    from pytest_manualbuild import published, targets  # noqa: PLC0415 # as above
    from pytest_manualbuild.gate import policy  # noqa: PLC0415 # as above

    loaded = policy.load(arguments.policy)
    target = targets.open_target(
        arguments.of,
        user=loaded.target.owner if arguments.user is None else arguments.user,
        label=targets.as_label(loaded.label() if arguments.label is None else arguments.label),
        staging=None,
        option="--of",
    )
    served = published.check(target, arguments.evidence, loaded)
    sys.stdout.write("".join(one.text() for one in served))
    where = visible(target.where)
    if not served:  # no green for a look at nothing
        sys.stdout.write(f"{where}: no package is there, so that nothing was checked\n")
        return NOTHING_CHECKED
    missing = sum(one.proven_by is None for one in served)
    sys.stdout.write(f"{where}: {len(served)} files, {missing} not proven\n")
    return 1 if missing else 0


def _refused(refused: upload.UploadRefused) -> int:
    sys.stdout.write(refused.verdict.text())
    sys.stderr.write("manualbuild: nothing was published.\n")
    return refused.verdict.exit_code
