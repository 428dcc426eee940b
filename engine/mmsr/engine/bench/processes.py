"""CPU time and memory of a running server, read from /proc. Elsewhere than Linux it knows nothing.

A server on this machine is found by the port that it listens on; a remote one is not seen.
"""

import ipaddress
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
LISTENING = "0A"  # of the column "st" in /proc/net/tcp
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_MIB = os.sysconf("SC_PAGE_SIZE") / 2**20


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A process and its children at one instant."""

    at_s: float  # of time.perf_counter
    cpu_s: float
    memory_mib: float  # resident


def read_process(pid: int) -> Reading | None:
    """Return what a process and its children have used; None if it has gone."""
    ticks, pages = 0, 0
    family = _with_children(pid)
    if not family:
        return None
    for member in family:
        fields = _stat(member)
        if fields is not None:
            ticks += int(fields[11]) + int(fields[12])  # utime, stime
            pages += int(fields[21])  # rss
    return Reading(at_s=time.perf_counter(), cpu_s=ticks / TICKS_PER_S, memory_mib=pages * PAGE_MIB)


def _stat(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat after the name, which may itself hold anything."""
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except (OSError, UnicodeDecodeError):
        return None
    return text.rpartition(")")[2].split()


def _with_children(pid: int) -> list[int]:
    found = [pid] if _stat(pid) is not None else []
    for parent in found:
        try:
            tasks = list((PROC / str(parent) / "task").iterdir())
            for task in tasks:
                found += map(int, (task / "children").read_text().split())
        except OSError:
            continue
    return found


def find_server(target: str) -> int | None:
    """Return the process that listens at HOST:PORT on this machine; None if it cannot be told."""
    host, _, port = target.rpartition(":")
    if not port.isdigit() or not _is_here(host.strip("[]")):
        return None
    return _owner(_listening_inodes(int(port)))


def _is_here(host: str) -> bool:
    try:
        addresses = {info[4][0] for info in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        return False
    return all(ipaddress.ip_address(str(address)).is_loopback for address in addresses)


def _listening_inodes(port: int) -> set[str]:
    inodes = set()
    for name in ("tcp", "tcp6"):
        try:
            lines = (PROC / "net" / name).read_text().splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, lines):
            if fields[3] == LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(fields[9])
    return inodes


def _owner(inodes: set[str]) -> int | None:
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for folder in PROC.glob("[0-9]*/fd") if wanted else ():
        try:
            if any(os.readlink(link) in wanted for link in folder.iterdir()):
                return int(folder.parent.name)
        except OSError:  # it has gone, or is another user's
            continue
    return None
