"""Fetching pictures from a real server on this machine, with a clock that the test turns."""

import gzip
import io
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mmsr.training.dataset import DataError, open_dataset
from mmsr.training.prepare.amazon import AmazonFiles, prepare_amazon
from mmsr.training.prepare.amazon_editions import Edition
from mmsr.training.prepare.fetch import FetchSettings, fetch_images
from mmsr.training.prepare.fetch_pace import Pace, StoppedError
from mmsr.training.prepare.preparation import ImportSettings
from mmsr.training.prepare.progress import silent

ONE = FetchSettings(workers=1, requests_per_s=10)


def picture_bytes(side: int = 8, form: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (200, 30, 30)).save(buffer, form)
    return buffer.getvalue()


PICTURE = picture_bytes()


@dataclass(frozen=True)
class Answer:
    """What the server says; `cut` bytes of the body are kept back."""

    status: int = 200
    body: bytes = PICTURE
    headers: dict[str, str] = field(default_factory=dict)
    cut: int = 0


class Shop(ThreadingHTTPServer):
    """Answers each path with its answers in turn, the last one for ever."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, list[Answer]] = {}
        self.asked: list[str] = []
        self.agents: set[str] = set()
        self.lock = threading.Lock()

    def url(self, path: str, *answers: Answer) -> str:
        self.answers[path] = list(answers) or [Answer()]
        return f"http://127.0.0.1:{self.server_address[1]}{path}"

    def next_answer(self, path: str) -> Answer:
        with self.lock:
            self.asked.append(path)
            answers = self.answers[path]
            return answers.pop(0) if len(answers) > 1 else answers[0]


class Handler(BaseHTTPRequestHandler):
    server: Shop

    def do_GET(self) -> None:
        self.server.agents.add(self.headers["User-Agent"])
        answer = self.server.next_answer(self.path)
        self.send_response_only(answer.status)
        for name, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.body[: len(answer.body) - answer.cut])
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        pass


class TurnedClock:
    """Time passes only when somebody waits."""

    def __init__(self) -> None:
        self.time_s = 0.0
        self.waits_s: list[float] = []
        self.lock = threading.Lock()

    def now_s(self) -> float:
        return self.time_s

    def wait_s(self, seconds: float, stop: threading.Event) -> None:
        with self.lock:
            self.waits_s.append(seconds)
            self.time_s += seconds


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Shop()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def clock() -> TurnedClock:
    return TurnedClock()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_picture_is_named_after_its_item(shop: Shop, clock: TurnedClock, tmp_path: Path) -> None:
    links = {
        "A": shop.url("/I/31JIPhp%2BGIL.jpg"),
        "B": shop.url("/I/b.png", Answer(body=picture_bytes(form="PNG"))),
        "C": shop.url("/image?id=3"),
    }
    assert fetch_images(links, tmp_path / "new" / "folder", ONE, silent, clock) == {}
    assert names(tmp_path / "new" / "folder") == ["A.jpg", "B.png", "C.jpg"]
    assert (tmp_path / "new" / "folder" / "A.jpg").read_bytes() == PICTURE
    assert "/I/31JIPhp%2BGIL.jpg" in shop.asked
    [agent] = shop.agents
    assert agent.startswith("mmsr-train/")


def test_requests_to_a_host_keep_their_distance(
    shop: Shop, clock: TurnedClock, tmp_path: Path
) -> None:
    links = {str(n): shop.url(f"/{n}.jpg") for n in range(5)}
    assert fetch_images(links, tmp_path, ONE, silent, clock) == {}
    assert clock.waits_s == pytest.approx([0.1] * 4)


def test_retry_after_is_honoured(shop: Shop, clock: TurnedClock, tmp_path: Path) -> None:
    dates = {
        "Date": "Wed, 21 Oct 2015 07:28:00 GMT",
        "Retry-After": "Wed, 21 Oct 2015 07:28:42 GMT",
    }
    busy = [Answer(429, b"", {"Retry-After": "7"}), Answer(503, b"", dates), Answer()]
    assert fetch_images({"A": shop.url("/a.jpg", *busy)}, tmp_path, ONE, silent, clock) == {}
    assert clock.waits_s == pytest.approx([7.0, 42.0])
    assert names(tmp_path) == ["A.jpg"]


def test_a_busy_host_is_left_alone_by_every_worker(
    shop: Shop, clock: TurnedClock, tmp_path: Path
) -> None:
    links = {"A": shop.url("/a.jpg", Answer(429, b"", {"Retry-After": "60"}), Answer())}
    links["B"] = shop.url("/b.jpg")
    assert fetch_images(links, tmp_path, ONE, silent, clock) == {}
    assert shop.asked == ["/a.jpg", "/a.jpg", "/b.jpg"]
    assert clock.time_s >= 60
    pace = Pace(10, clock)
    pace.wait_turn("host")
    pace.hold("host", 60)
    before_s = clock.time_s
    pace.wait_turn("other")
    assert clock.time_s == before_s
    pace.wait_turn("host")
    assert clock.time_s == pytest.approx(before_s + 60)


def test_a_host_that_asks_for_too_long_a_wait_is_asked_no_more(
    shop: Shop, clock: TurnedClock, tmp_path: Path
) -> None:
    links = {"A": shop.url("/a.jpg", Answer(429, b"", {"Retry-After": "3600"}))}
    links["B"] = shop.url("/b.jpg")
    failures = fetch_images(links, tmp_path, ONE, silent, clock)
    assert shop.asked == ["/a.jpg"]
    assert {item: reason for item, (reason, _) in failures.items()} == {
        "A": "image not fetched",
        "B": "image not fetched",
    }
    assert failures["A"][1].endswith("is asked no more in this run; HTTP 429")


def test_passing_faults_are_tried_again_after_growing_waits(
    shop: Shop, clock: TurnedClock, tmp_path: Path
) -> None:
    faults = [Answer(500, b"oops"), Answer(502), Answer(cut=9), Answer()]
    assert fetch_images({"A": shop.url("/a.jpg", *faults)}, tmp_path, ONE, silent, clock) == {}
    assert clock.waits_s == pytest.approx([1.0, 2.0, 4.0])
    assert (tmp_path / "A.jpg").read_bytes() == PICTURE


@pytest.mark.parametrize(
    ("answer", "requests", "detail"),
    [
        (Answer(500, b""), 5, "HTTP 500, 5 times"),
        (Answer(cut=9), 5, f"cut off after {len(PICTURE) - 9} of {len(PICTURE)} bytes, 5 times"),
        (Answer(404, b"gone"), 1, "HTTP 404"),
        (Answer(403, b"no"), 1, "HTTP 403"),
        (Answer(200, b"<html>sorry</html>"), 1, "not an image (18 bytes)"),
        (Answer(200, picture_bytes(1, "GIF")), 1, "a placeholder of one pixel"),
        (Answer(200, b"x" * 2001), 1, "2001 bytes, at most 2000"),
        (Answer(302, b"", {"Location": "file:///etc/passwd"}), 1, "HTTP 302"),
    ],
)
def test_what_cannot_be_had_is_a_failure_and_leaves_no_file(
    shop: Shop,
    clock: TurnedClock,
    tmp_path: Path,
    answer: Answer,
    requests: int,
    detail: str,
) -> None:
    settings = FetchSettings(workers=1, requests_per_s=10, max_bytes=2000)
    url = shop.url("/a.jpg", answer)
    failures = fetch_images({"A": url}, tmp_path, settings, silent, clock)
    assert failures == {"A": ("image not fetched", f"{url}: {detail}")}
    assert len(shop.asked) == requests
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("link", "detail"),
    [
        ("file:///etc/passwd", "not a link to http or https"),
        ("ftp://127.0.0.1/a.jpg", "not a link to http or https"),
        ("http://", "not a link to http or https"),
        ("http://[::1/a.jpg", "not a link"),
        ("http://127.0.0.1:x/a.jpg", "not a link"),
    ],
)
def test_only_links_of_the_web_are_followed(
    clock: TurnedClock, tmp_path: Path, link: str, detail: str
) -> None:
    failures = fetch_images({"A": link}, tmp_path, ONE, silent, clock)
    assert failures == {"A": ("image not fetched", f"{link}: {detail}")}


def test_an_item_cannot_write_outside_the_folder(
    shop: Shop, clock: TurnedClock, tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    links = {"../A": shop.url("/a.jpg"), "/tmp/B": shop.url("/b.jpg"), ".": shop.url("/c.jpg")}
    links |= {name: shop.url("/d.jpg") for name in ("A\0B", "A\nB", "A" * 300)}
    failures = fetch_images(links, folder, ONE, silent, clock)
    assert failures["../A"] == ("image not fetched", "'../A' cannot be the name of a file")
    assert failures.keys() == links.keys()
    assert shop.asked == []
    assert names(tmp_path) == ["images"]


def test_a_host_that_never_answers_is_given_up(
    shop: Shop, clock: TurnedClock, tmp_path: Path
) -> None:
    settings = FetchSettings(workers=1, attempts=2, failures_in_a_row=3)
    links = {str(n): shop.url(f"/{n}.jpg", Answer(500, b"")) for n in range(10)}
    failures = fetch_images(links, tmp_path, settings, silent, clock)
    assert len(failures) == 10
    assert len(shop.asked) == 6
    assert failures["9"][1].endswith("127.0.0.1 is asked no more in this run; not asked")


def test_what_is_there_is_not_fetched_again_but_a_broken_file_is(
    shop: Shop, clock: TurnedClock, tmp_path: Path
) -> None:
    (tmp_path / "A.jpeg").write_bytes(PICTURE)
    (tmp_path / "b.jpg").write_bytes(PICTURE)
    (tmp_path / "C.png").write_bytes(b"<html>")
    links = {item: shop.url(f"/{item.lower()}.jpg") for item in "ABC"}
    assert fetch_images(links, tmp_path, ONE, silent, clock) == {}
    assert shop.asked == ["/c.jpg"]
    assert (tmp_path / "C.png").read_bytes() == PICTURE


class Interrupted(TurnedClock):
    """Calls the work off in the middle of the third wait."""

    def wait_s(self, seconds: float, stop: threading.Event) -> None:
        super().wait_s(seconds, stop)
        if len(self.waits_s) == 3:
            raise KeyboardInterrupt


def test_an_interrupted_run_is_taken_up_where_it_stopped(
    shop: Shop, clock: TurnedClock, tmp_path: Path
) -> None:
    links = {str(n): shop.url(f"/{n}.jpg") for n in range(8)}
    with pytest.raises(KeyboardInterrupt):
        fetch_images(links, tmp_path, ONE, silent, Interrupted())
    before = list(shop.asked)
    assert names(tmp_path) == sorted(path.removeprefix("/") for path in before)
    assert "3.jpg" not in names(tmp_path)
    assert fetch_images(links, tmp_path, ONE, silent, clock) == {}
    assert Counter(before) + Counter(shop.asked[len(before) :]) == Counter(
        {f"/{n}.jpg": 1 for n in range(8)}
    )
    assert names(tmp_path) == [f"{n}.jpg" for n in range(8)]


def test_work_that_is_called_off_stops_waiting(clock: TurnedClock) -> None:
    pace = Pace(10, clock)
    pace.hold("host", 60)
    pace.stop.set()
    with pytest.raises(StoppedError):
        pace.wait_turn("host")
    assert len(clock.waits_s) == 1


def test_several_workers_fetch_everything_once(
    shop: Shop, clock: TurnedClock, tmp_path: Path
) -> None:
    done: list[float] = []
    links = {str(n): shop.url(f"/{n}.jpg", Answer(503, b""), Answer()) for n in range(20)}
    failures = fetch_images(
        links, tmp_path, FetchSettings(requests_per_s=100), lambda _, part: done.append(part), clock
    )
    assert failures == {}
    assert Counter(shop.asked) == Counter({f"/{n}.jpg": 2 for n in range(20)})
    assert done == sorted(done)
    assert done[-1] == 1.0


@pytest.mark.parametrize("requests_per_s", [0, -1, 101, float("nan")])
def test_an_impolite_rate_is_refused(requests_per_s: float) -> None:
    with pytest.raises(DataError, match="requests a second; expected more than 0, at most 100"):
        FetchSettings(requests_per_s=requests_per_s)


def write_gzip(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_bytes(gzip.compress("".join(json.dumps(line) + "\n" for line in lines).encode()))
    return path


@pytest.fixture
def category(shop: Shop, tmp_path: Path) -> Callable[[Path], AmazonFiles]:
    """Write a category of 2014 whose pictures the server has, but for that of C."""
    log = [("u", "A"), ("v", "A"), ("u", "B"), ("v", "B"), ("u", "C"), ("v", "C"), ("w", "D")]
    reviews = [
        {"reviewerID": user, "asin": item, "unixReviewTime": time, "overall": 5.0}
        for time, (user, item) in enumerate(log)
    ]
    metadata = [
        {"asin": item, "title": item, "imUrl": shop.url(f"/{item}.jpg")} for item in "ABCDE"
    ]
    shop.answers["/C.jpg"] = [Answer(404, b"")]

    def files(images: Path) -> AmazonFiles:
        return AmazonFiles(
            reviews=write_gzip(tmp_path / "reviews.json.gz", reviews),
            metadata=write_gzip(tmp_path / "meta.json.gz", metadata),
            edition=Edition.Y2014,
            images=images,
            fetch=ONE,
        )

    return files


def test_preparing_fetches_the_pictures_of_items_that_stay(
    shop: Shop,
    clock: TurnedClock,
    tmp_path: Path,
    category: Callable[[Path], AmazonFiles],
) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    out.mkdir()
    settings = ImportSettings(name="x", image_root=str(images), origin="test", k_core=2)
    report = prepare_amazon(category(images), out, settings, silent, clock)
    assert sorted(shop.asked) == ["/A.jpg", "/B.jpg", "/C.jpg"]  # D is below the core, E unbought
    dataset = open_dataset(out)
    assert dataset.item_table()["image"].to_pylist() == ["A.jpg", "B.jpg", None]
    assert report.items.notes == {"image not fetched": 1}
    [note] = [json.loads(line) for line in (out / "notes.jsonl").read_text().splitlines()]
    assert (note["file"], note["row"]) == ("meta.json.gz", 3)
    assert note["value"].endswith("/C.jpg: HTTP 404")
