"""Runs a program with a mark in its environment, and kills all that carry the mark when it ended.

So win32-openssh ends a session, by a job object. A program of its own, since that outlives the
server: `windows_job.py yes|no MARK PROGRAM WORD...`. Imports little, to start fast.
"""

import os
import sys


def carries(process: str, mark: bytes) -> bool:
    try:
        with open(f"/proc/{process}/environ", "rb") as file:  # noqa: PTH123 # see above
            return mark in file.read().split(b"\0")
    except OSError:
        return False


def main(jobs: str, mark: str, *words: str) -> int:
    child = os.posix_spawnp(words[0], words, {**os.environ, "MANUALBUILD_JOB": mark})
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    wanted = f"MANUALBUILD_JOB={mark}".encode()
    found = jobs == "yes"
    while found:
        found = False
        for process in os.listdir("/proc"):  # noqa: PTH208 # see above
            if process.isdigit() and carries(process, wanted):
                try:
                    os.kill(int(process), 9)
                    found = True
                except OSError:
                    pass
    return status % 256


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
