"""Fetches pictures into a folder: politely, again after passing faults, never twice."""

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from mmsr.bundle.files import atomic_path
from mmsr.training.dataset import DataError
from mmsr.training.prepare.fetch_pace import Clock, Pace, StoppedError, WallClock
from mmsr.training.prepare.fetch_request import (
    LastingError,
    PassingError,
    RefusedError,
    Requester,
    host_of,
)
from mmsr.training.prepare.images import image_checker
from mmsr.training.prepare.picture_folder import SUFFIXES, PictureFolder, link_name
from mmsr.training.prepare.progress import Progress

NOT_FETCHED = "image not fetched"
LONGEST_NAME_BYTES = 200  # of an item; a file system takes 255, some of them for atomic writes
QUEUED = 4096  # downloads handed to the workers at once
Failures = dict[str, tuple[str, str]]  # reason and detail, by item


@dataclass(frozen=True, kw_only=True)
class FetchSettings:
    """How much is asked of a host, and how patiently."""

    requests_per_s: float = 5.0  # to one host
    workers: int = 8
    attempts: int = 5
    first_wait_s: float = 1.0  # doubles with every attempt
    longest_wait_s: float = 120.0  # a host that asks for more is asked no more in this run
    timeout_s: float = 20.0  # of one silence
    download_s: float = 120.0  # of a whole picture
    max_bytes: int = 20 << 20
    failures_in_a_row: int = 20  # then a host is asked no more in this run

    def __post_init__(self) -> None:
        if not 0 < self.requests_per_s <= 100:
            raise DataError(
                f"{self.requests_per_s:g} requests a second; expected more than 0, at most 100"
            )


@dataclass(frozen=True, kw_only=True)
class Download:
    """A link and the file that it becomes."""

    url: str
    target: Path


class Fetcher:
    """Carries out downloads; one object for one run."""

    def __init__(self, settings: FetchSettings, clock: Clock) -> None:
        self.settings = settings
        self.pace = Pace(settings.requests_per_s, clock)
        self.requester = Requester(settings.timeout_s, settings.download_s, settings.max_bytes)

    def fetch_all(self, downloads: Mapping[str, Download], progress: Progress) -> Failures:
        """Fetch every download; return those that failed. Only a full disk is an error.

        When interrupted, whole files stay and nothing else does.
        """
        failures: Failures = {}
        left = iter(downloads.items())
        done = 0
        pool = ThreadPoolExecutor(self.settings.workers, thread_name_prefix="fetch")
        try:
            while batch := list(islice(left, QUEUED)):
                futures = {pool.submit(self.fetch, download): key for key, download in batch}
                for future in as_completed(futures):
                    if detail := future.result():
                        failures[futures[future]] = (NOT_FETCHED, detail)
                    done += 1
                    progress("fetching images", done / len(downloads))
        finally:
            self.pace.stop.set()
            pool.shutdown(cancel_futures=True)
        return failures

    def fetch(self, download: Download) -> str | None:
        """Fetch one file; return why it failed, None if it did not."""
        try:
            host = host_of(download.url)
            data = self._patiently(download.url, host)
        except (LastingError, StoppedError) as fault:
            return f"{download.url}: {str(fault) or 'called off'}"
        download.target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(download.target) as temporary:
            temporary.write_bytes(data)
        return None

    def _patiently(self, url: str, host: str) -> bytes:
        last = "not asked"
        for attempt in range(self.settings.attempts):
            if self.pace.is_closed(host):
                raise LastingError(f"{host} is asked no more in this run; {last}")
            self.pace.wait_turn(host)
            try:
                return self._ask(url, host)
            except PassingError as fault:
                last = str(fault)
                self._back_off(fault, host, attempt)
        self.pace.failed(host, self.settings.failures_in_a_row)
        raise LastingError(f"{last}, {self.settings.attempts} times")

    def _ask(self, url: str, host: str) -> bytes:
        try:
            data = self.requester.picture(url)
        except RefusedError:
            self.pace.failed(host, self.settings.failures_in_a_row)
            raise
        except LastingError:
            self.pace.succeeded(host)  # it answers
            raise
        self.pace.succeeded(host)
        return data

    def _back_off(self, fault: PassingError, host: str, attempt: int) -> None:
        """Wait before the next attempt; a host that is busy is left alone by all."""
        settings = self.settings
        wait_s = min(settings.first_wait_s * 2**attempt, settings.longest_wait_s)
        if fault.wait_s is not None:
            wait_s = max(wait_s, fault.wait_s)
        if wait_s > settings.longest_wait_s:
            self.pace.close(host)
        elif fault.busy or fault.wait_s is not None:
            self.pace.hold(host, wait_s)
        elif attempt + 1 < settings.attempts:
            self.pace.wait(wait_s)


def fetch_images(
    links: Mapping[str, str],
    folder: Path,
    settings: FetchSettings,
    progress: Progress,
    clock: Clock | None = None,
) -> Failures:
    """Fetch the pictures of items that the folder lacks; return those that failed, by item.

    A picture is named after its item. One that is there and can be opened is not asked for.
    """
    folder.mkdir(parents=True, exist_ok=True)
    items = list(links)
    pictures = PictureFolder(folder)
    with image_checker(folder) as checker:
        found = [pictures.find(item, links[item]) for item in items]
        checked = checker.check(found)
    failures: Failures = {}
    downloads: dict[str, Download] = {}
    for item, name, picture in zip(items, found, checked, strict=True):
        if picture.path is not None:
            continue
        if not _is_name(item):
            failures[item] = (NOT_FETCHED, f"{item!r} cannot be the name of a file")
            continue
        target = folder / (name or f"{item}{_suffix(links[item])}")  # a broken file gives way
        downloads[item] = Download(url=links[item], target=target)
    fetcher = Fetcher(settings, clock or WallClock())
    return failures | fetcher.fetch_all(downloads, progress)


def _is_name(item: str) -> bool:
    plain = Path(item).name == item and item.isprintable() and not item.startswith(".")
    return plain and len(os.fsencode(item)) <= LONGEST_NAME_BYTES


def _suffix(link: str) -> str:
    suffix = Path(link_name(link)).suffix.lower()
    return suffix if suffix in SUFFIXES else SUFFIXES[0]
