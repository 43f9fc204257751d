"""The codes of all findings; ``docs/audit.md`` describes each."""

from __future__ import annotations

_TEXT = """
archive-setid archive-world-writable archive-device archive-fifo archive-other
archive-absolute archive-escape archive-name archive-backslash archive-control archive-unicode
archive-reserved archive-long archive-duplicate archive-case archive-link-absolute
archive-link-escape archive-hardlink archive-through-link archive-size-of-link
archive-size-twice archive-part archive-container archive-hidden-data archive-size
archive-ratio archive-members archive-late-info archive-time
index-missing index-invalid index-name index-subdir index-noarch index-depends
paths-missing paths-duplicate paths-unlisted paths-absent paths-sha256 paths-size paths-type
paths-files prefix-files prefix-kept prefix-mode recipe-missing recipe-unreadable
source-unpinned source-path tests-missing tests-none tests-contents
about-unreadable license-unnamed license-empty license-missing license-spdx link-script
leak-home leak-build-path secret-key secret-token secret-url forbidden-file pyc-alone
python-abi noarch-binary noarch-pyc noarch-link
binary-unreadable binary-arch binary-format elf-undeclared macho-undeclared library-missing
library-unresolved elf-private elf-libstdcxx elf-interpreter elf-rpath macho-rpath
macho-library elf-textrel elf-execstack macho-unsigned pe-debug-runtime pe-aslr pe-nx
"""
CODES = frozenset(_TEXT.split())
