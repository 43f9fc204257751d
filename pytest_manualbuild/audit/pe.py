"""Programs and libraries of Windows: the least system they run on, and what they load."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from pytest_manualbuild.audit.binary import (
    Binary,
    Need,
    Package,
    finding,
    name_of,
    unresolved,
    version,
)
from pytest_manualbuild.records import Finding, Severity

_ARCHS = {"I386": "x86", "AMD64": "x86_64", "ARM64": "arm64"}
_DYNAMIC_BASE, _NX = 0x40, 0x100
_DEBUG = re.compile(
    r"(?:vcruntime|msvcp|concrt|mfc|vcomp)\d+(?:_\d+)?d\.dll|msvcr\d+d\.dll|ucrtbased\.dll"
)
_UCRT = re.compile(r"api-ms-win-crt-.*\.dll|ucrtbase\.dll")
_SET = re.compile(r"((?:api|ext)-ms-.*-l\d+)-\d+-\d+(?:\.dll)?")
# API sets that Windows 7 has; any other came later.
_SETS_OF_7 = frozenset(
    f"api-ms-win-{name}-l1"
    for name in (
        "core-console", "core-datetime", "core-debug", "core-delayload", "core-errorhandling",
        "core-fibers", "core-file", "core-handle", "core-heap", "core-interlocked", "core-io",
        "core-libraryloader", "core-localization", "core-localregistry", "core-memory",
        "core-misc", "core-namedpipe", "core-processenvironment", "core-processthreads",
        "core-profile", "core-rtlsupport", "core-string", "core-synch", "core-sysinfo",
        "core-threadpool", "core-ums", "core-util", "core-xstate", "security-base",
        "security-lsalookup", "security-sddl", "service-core", "service-management",
        "service-winsvc",
    )
)  # fmt: skip
# Functions that Windows 7 lacks, by the system that first had them, from their documentation.
_FUNCTIONS = {
    "6.2": (
        "CopyFile2", "CreateFile2", "GetCurrentPackageFullName", "GetCurrentPackageId",
        "GetCurrentThreadStackLimits", "GetHostNameW", "GetOverlappedResultEx",
        "GetProcessMitigationPolicy", "GetSystemTimePreciseAsFileTime", "LoadPackagedLibrary",
        "PathAllocCombine", "PathCchAppend", "PathCchCombine", "PathCchCombineEx",
        "PathCchSkipRoot", "PrefetchVirtualMemory", "RoInitialize", "SetProcessMitigationPolicy",
        "SetThreadInformation", "WaitOnAddress", "WakeByAddressAll", "WakeByAddressSingle",
        "CreateFileMappingFromApp", "MapViewOfFileFromApp", "SetProcessInformation",
    ),
    "6.3": (
        "DiscardVirtualMemory", "GetDpiForMonitor", "OfferVirtualMemory",
        "ReclaimVirtualMemory", "SetProcessDpiAwareness",
    ),
    "10.0": (
        "CreatePseudoConsole", "GetDpiForSystem", "GetDpiForWindow", "GetSystemMetricsForDpi",
        "GetThreadDescription", "MapViewOfFile3", "ProcessPrng", "SetThreadDescription",
        "SetThreadDpiAwarenessContext", "SetProcessDpiAwarenessContext", "VirtualAlloc2",
        "GetTempPath2W", "IsWow64Process2", "QueryInterruptTimePrecise",
    ),
}  # fmt: skip
_SINCE = {name: since for since, names in _FUNCTIONS.items() for name in names}
# What every Windows has; the rest must come with the package or its dependencies.
_SYSTEM = frozenset(
    "advapi32 avicap32 avifil32 avrt bcrypt bcryptprimitives cabinet cfgmgr32 clusapi combase"  # noqa: SIM905 # readable
    " comctl32 comdlg32 credui crypt32 cryptbase cryptui d2d1 d3d10 d3d11 d3d12 d3d9 d3dcompiler_47"
    " dbghelp dcomp dhcpcsvc dnsapi dsound dwmapi dwrite dxgi dxva2 fltlib fwpuclnt gdi32 gdiplus"
    " glu32 hid httpapi imagehlp imm32 iphlpapi kernel32 kernelbase ktmw32 mf mfplat mfreadwrite"
    " mpr msacm32 mscoree msimg32 msvcrt msvfw32 mswsock ncrypt netapi32 normaliz ntdll ntdsapi"
    " odbc32 ole32 oleacc oleaut32 opengl32 pdh powrprof propsys psapi rasapi32 rpcrt4 rstrtmgr"
    " secur32 setupapi shcore shell32 shlwapi sspicli tdh ucrtbase urlmon user32 userenv usp10"
    " uxtheme version wevtapi winhttp wininet winmm winscard winspool wintrust winusb wldap32"
    " wlanapi ws2_32 wsock32 wtsapi32 xinput1_4 xinput9_1_0 xmllite".split()
)


def read(path: Path, file: str) -> Binary | None:
    """Read one file."""
    import lief  # noqa: PLC0415 # half a second, and only in the child process

    config = lief.PE.ParserConfig()
    config.parse_signature = config.parse_rsrc = config.parse_reloc = False
    config.parse_exports = config.parse_exceptions = False
    parsed = lief.PE.parse(str(path), config)
    if parsed is None:
        return Binary(file=file, format="pe", problem="its headers make no sense")
    machine = name_of(parsed.header.machine)
    optional = parsed.optional_header
    least = f"{optional.major_subsystem_version}.{optional.minor_subsystem_version}"
    functions: list[tuple[str, str]] = []
    for library in (*parsed.imports, *parsed.delay_imports):
        entries = [str(entry.name) for entry in library.entries if not entry.is_ordinal]
        functions += [(str(library.name).lower(), name) for name in entries or [""]]
    # What is loaded late is not needed to start, and may be asked for and done without.
    early = {str(library.name).lower() for library in parsed.imports}
    needs = [Need(what="windows", version=least, symbol="")]
    needs += [
        Need(what="windows", version=since, symbol=f"{library}!{name}".rstrip("!"))
        for library, name in functions
        if library in early and (since := _since(library, name))
    ]
    worst = max(needs, key=lambda need: version(need.version))
    marks = []
    if not optional.dll_characteristics & _DYNAMIC_BASE:
        marks.append("no-aslr")
    if not optional.dll_characteristics & _NX:
        marks.append("no-nx")
    return Binary(
        file=file,
        format="pe",
        archs=(_ARCHS.get(machine, machine.lower()),),
        libraries=tuple(dict.fromkeys(library for library, _ in functions)),
        needs=(worst,),
        marks=tuple(marks),
    )


def _since(library: str, function: str) -> str:
    """Return the Windows that first had such an import; empty if 7 has it, or has it by update."""
    if _UCRT.fullmatch(library):
        return ""
    found = _SET.fullmatch(library)
    later = found is not None and (
        found[1] not in _SETS_OF_7 or not re.search(r"-1-\d+(\.dll)?$", library)
    )
    return _SINCE.get(function, "6.2" if later else "")


def judge(binary: Binary, package: Package) -> Iterator[Finding]:
    """Yield what is wrong with a Windows binary in that package."""
    for library in binary.libraries:
        if _DEBUG.fullmatch(library):
            yield finding(
                "pe-debug-runtime",
                binary,
                f"It needs {library}, a debug runtime, which only developers have.",
                "Build it in release mode (/MD, not /MDd).",
            )
        elif not _SET.fullmatch(library) and _stem(library) not in _SYSTEM:
            yield from unresolved(binary, package, library)
    for mark, code, words, option in (
        ("no-aslr", "pe-aslr", "is always loaded at one address (no ASLR)", "/DYNAMICBASE"),
        ("no-nx", "pe-nx", "lets its data be run as code (no NX)", "/NXCOMPAT"),
    ):
        if mark in binary.marks:
            yield finding(code, binary, f"It {words}.", f"Link it with {option}.", Severity.WARNING)


def _stem(library: str) -> str:
    return library.removesuffix(".dll").removesuffix(".drv")
