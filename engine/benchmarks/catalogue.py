"""How long a change of the catalogue takes until an answer shows it, while the server is busy.

    python engine/benchmarks/catalogue.py FOLDER --markdown engine/results/catalogue.md

FOLDER receives a bundle with random weights and tables (made once, minutes) and stores. The server
is a process of its own; other requests come at Poisson times. A change is timed from its call
to the first answer that shows it: an upsert to an answer with its item, a deletion or an
end of availability to an answer without it. Images are reported apart, with their encoding time.
"""

# R requests, D width

import asyncio
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from io import BytesIO
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any

import grpc
import numpy as np
import typer

from benchmarks.random_bundle import FEATURES, Shape, write_bundle
from mmsr.bundle.manifest import Manifest, describe_files, load_manifest
from mmsr.bundle.terminal import run as run_app
from mmsr.engine.bench.arrivals import poisson_arrivals_s
from mmsr.engine.bench.machine import describe_environment
from mmsr.training.model import SequentialRecommender
from mmsr.v1 import catalogue_pb2 as pb
from mmsr.v1 import recommender_pb2 as rpb
from mmsr.v1.catalogue_pb2_grpc import CatalogueStub
from mmsr.v1.recommender_pb2_grpc import RecommenderStub

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
CLOSED_LOOP_S = 6.0
CALLERS = 16  # of the closed loop that finds out what the server can do
HISTORY = 20  # items
K = 20
BULK = 100  # items of a large message
PATIENCE_S = 600.0
LOAD_S = 3600.0  # longer than anything is measured


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured."""

    folder: Path
    shape: Shape
    load: float  # share of the capacity
    changes: int  # of each kind
    images: int
    seed: int = 0


@dataclass(kw_only=True)
class Times:
    """Milliseconds of one kind of change."""

    acknowledged: list[float] = field(default_factory=list)
    visible: list[float] = field(default_factory=list)
    encode: list[float] = field(default_factory=list)

    def line(self, name: str) -> dict[str, Any]:
        """Return what the report says."""

        def points(values: list[float]) -> list[float]:
            return [round(float(v), 1) for v in np.percentile(values, (50, 90, 99, 100))]

        found = {
            "kind": name,
            "changes": len(self.visible),
            "acknowledged": points(self.acknowledged),
        }
        found["visible"] = points(self.visible)
        if self.encode:
            found["encode"] = points(self.encode)
            beside = np.subtract(self.visible, self.encode)
            found["visible_less_encode"] = points(beside.tolist())
        return found


def make_bundle(folder: Path, shape: Shape) -> Path:
    """Return the bundle below `folder`, made if it is not there: with item graph and encoder."""
    bundle = folder / f"bundle-{shape.items}-{shape.width}"
    if (bundle / "manifest.json").is_file():
        return bundle
    shutil.rmtree(bundle, ignore_errors=True)
    model = write_bundle(bundle, shape, ())
    manifest = load_manifest(bundle)
    graphs, features = _item_side(bundle, model)
    said = {"graphs": {**manifest.graphs, **graphs}, "features": features}
    ids = np.random.default_rng(shape.seed).standard_normal((shape.items + 1, shape.width))
    np.save(bundle / "tables/ids.npy", (0.02 * ids).astype(np.float32))
    sealed: Manifest = replace(manifest, **said, files=describe_files(bundle))  # type: ignore[arg-type]
    sealed.save(bundle)
    return bundle


def _item_side(bundle: Path, model: SequentialRecommender) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write item.onnx and a VGG-16 with random weights; return their entries in the manifest."""
    from mmsr.export.convert import convert_image_encoder, convert_item
    from mmsr.training.features.config import FeaturesConfig
    from mmsr.training.features.image_encoder import load_image_encoder

    encoder, spec = load_image_encoder(FeaturesConfig(image_encoder="vgg16", random_weights=True))
    graphs = {
        "item": convert_item(model, bundle / "item.onnx", folded=False),
        "image_encoder": convert_image_encoder(
            encoder, spec.preprocess.size, bundle / "image_encoder.onnx"
        ),
    }
    described = {k: v for k, v in spec.to_json().items() if k != "weights_path"}
    return graphs, {"image": described, "text": None, "categories": []}


def serve(bundle: Path, store: Path, ready: Connection) -> None:
    """Serve the bundle, whose probe set is empty: all but the proof is as in `mmsr-serve`."""
    from mmsr.engine.catalogue.carrier import CatalogueCarrier
    from mmsr.engine.compute import ComputeThread
    from mmsr.engine.config import CatalogueConfig, ServeConfig, ServerConfig
    from mmsr.engine.deployment import Opened, assembled, warm_up
    from mmsr.engine.items import ItemIndex
    from mmsr.engine.model import open_model
    from mmsr.engine.server import Server

    async def inside() -> None:
        compute = ComputeThread(asyncio.get_running_loop())
        config = ServeConfig(
            server=ServerConfig(repository=bundle.parent, port=0),
            catalogue=CatalogueConfig(path=store),
        )
        server = Server(config, compute)
        await server.listen()
        compute.start()
        assert server.catalogue is not None
        await server.catalogue.open()
        model = await compute.run(lambda: open_model(bundle, threads=config.server.threads))
        times = await compute.run(lambda: warm_up(model, config.batch.max_batch, time.monotonic))
        opened = Opened(model=model, items=ItemIndex(model.bundle.catalogue), times=times)
        deployment = assembled(opened, config, compute, time.monotonic)
        await CatalogueCarrier(server.catalogue).carry(deployment)
        server.serving.use(config.server.label, deployment)
        server._ready()
        ready.send(server.port)
        while not ready.poll():
            await asyncio.sleep(0.2)
        await server.stop()
        compute.close()

    try:
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(inside())
    except ModuleNotFoundError:
        asyncio.run(inside())


class Shop:
    """The client's side."""

    def __init__(self, channel: grpc.aio.Channel, plan: Plan) -> None:
        self._recommender = RecommenderStub(channel)
        self._catalogue = CatalogueStub(channel)
        self._random = np.random.default_rng(plan.seed)
        self._plan = plan
        self._loudness = 1000.0
        self.probe = self.history()
        direction = self._random.standard_normal(FEATURES["image"])
        self._direction_F = direction.astype(np.float32)

    def history(self) -> list[str]:
        """Return a history of random items."""
        return [f"item-{n}" for n in self._random.integers(0, self._plan.shape.items, HISTORY)]

    async def best(self, history: list[str], k: int = K) -> list[str]:
        """Ask for recommendations."""
        answer = await self._recommender.Recommend(rpb.RecommendRequest(history=history, k=k))
        return list(answer.item_ids)

    async def upsert(self, *items: pb.Item) -> pb.UpsertItemsResponse:
        """Write items."""
        done: pb.UpsertItemsResponse = await self._catalogue.UpsertItems(
            pb.UpsertItemsRequest(items=items)
        )
        return done

    async def delete(self, *item_ids: str) -> None:
        """Remove items."""
        await self._catalogue.DeleteItems(pb.DeleteItemsRequest(item_ids=item_ids))

    async def set_available(self, item_id: str, available: bool) -> None:
        """Switch the availability of an item."""
        await self._catalogue.SetAvailability(
            pb.SetAvailabilityRequest(item_ids=[item_id], available=available)
        )

    def loud_item(self, item_id: str) -> pb.Item:
        """Return an item that scores higher than all before for the probe's history."""
        self._loudness += 5.0
        return pb.Item(item_id=item_id, image_features=self._loudness * self._direction_F)

    async def find_direction(self) -> None:
        """Turn the features to where loud is best, not worst."""
        await self.upsert(self.loud_item("loud"))
        if (await self.best(self.probe, 1)) != ["loud"]:
            self._direction_F = -self._direction_F
            await self.upsert(self.loud_item("loud"))
            assert (await self.best(self.probe, 1)) == ["loud"]
        await self.delete("loud")

    async def timed(
        self, change: Awaitable[Any], shows: Callable[[list[str]], bool], times: Times
    ) -> Any:
        """Make a change and ask until an answer shows it."""
        began = time.perf_counter()
        done = await change
        times.acknowledged.append(1e3 * (time.perf_counter() - began))
        while not shows(await self.best(self.probe)):
            pass
        times.visible.append(1e3 * (time.perf_counter() - began))
        return done


@asynccontextmanager
async def load(shop: Shop, rate_per_s: float, latencies_ms: list[float]) -> AsyncIterator[None]:
    """Send requests at Poisson times meanwhile; latencies are from the intended time."""
    began = asyncio.get_running_loop().time()
    calls: set[asyncio.Task[None]] = set()

    async def one(at: float) -> None:
        await shop.best(shop.history())
        latencies_ms.append(1e3 * (asyncio.get_running_loop().time() - at))

    async def send() -> None:
        for offset in poisson_arrivals_s(rate_per_s, LOAD_S, 1).tolist():
            await asyncio.sleep(began + offset - asyncio.get_running_loop().time())
            task = asyncio.create_task(one(began + offset))
            calls.add(task)
            task.add_done_callback(calls.discard)

    sender = asyncio.create_task(send())
    try:
        yield
    finally:
        sender.cancel()
        await asyncio.gather(*calls)


async def capacity_per_s(shop: Shop) -> float:
    """Return what the server answers to callers that wait for each answer."""
    answered = 0
    ends = time.perf_counter() + CLOSED_LOOP_S

    async def call() -> None:
        nonlocal answered
        while time.perf_counter() < ends:
            await shop.best(shop.history())
            answered += 1

    await asyncio.gather(*(call() for _ in range(CALLERS)))
    return answered / CLOSED_LOOP_S


async def measure(target: str, plan: Plan) -> dict[str, Any]:
    """Return the report's numbers."""
    async with grpc.aio.insecure_channel(target) as channel:
        shop = Shop(channel, plan)
        await shop.find_direction()
        capacity = await capacity_per_s(shop)
        rate = plan.load * capacity
        typer.echo(f"{capacity:.1f} requests/s in a closed loop, {rate:.1f} from here on", err=True)
        quiet_ms: list[float] = []
        changing_ms: list[float] = []
        encoding_ms: list[float] = []
        async with load(shop, rate, quiet_ms):
            await asyncio.sleep(15)
        lines, every = [], Times()
        async with load(shop, rate, changing_ms):
            for name, kind in (
                ("upsert of one item with features", one_upsert),
                (f"upsert of {BULK} items with features", many_upserts),
                ("upsert of an item that is there", replacement),
                ("end of availability", end_of_availability),
                ("deletion", deletion),
            ):
                times = Times()
                for n in range(plan.changes):
                    await kind(shop, n, times)
                lines.append(times.line(name))
                typer.echo(json.dumps(lines[-1]), err=True)
                every.acknowledged += times.acknowledged
                every.visible += times.visible
        lines.append(every.line("all of these"))
        times = Times()
        await shop.upsert(pb.Item(item_id="first", image=picture(0)))  # loads the encoder
        async with load(shop, rate, encoding_ms):
            for n in range(plan.images):
                await one_image(shop, n, times)
        lines.append(times.line("upsert of one item with an image"))
    return {
        "capacity_per_s": round(capacity, 1),
        "rate_per_s": round(rate, 1),
        "latency_ms": {
            "without changes": percentiles(quiet_ms),
            "while features are written": percentiles(changing_ms),
            "while images are encoded": percentiles(encoding_ms),
        },
        "changes": lines,
    }


def percentiles(values: list[float]) -> dict[str, float]:
    """Return how many, the median, p90 and p99."""
    p50, p90, p99 = np.percentile(values, (50, 90, 99))
    return {
        "requests": len(values),
        "p50": round(p50, 1),
        "p90": round(p90, 1),
        "p99": round(p99, 1),
    }


async def one_upsert(shop: Shop, n: int, times: Times) -> None:
    """Write one new item."""
    item = shop.loud_item(f"new-{n}")
    await shop.timed(shop.upsert(item), lambda best: item.item_id in best, times)


async def many_upserts(shop: Shop, n: int, times: Times) -> None:
    """Write many new items at once, and remove them again."""
    items = [shop.loud_item(f"bulk-{n}-{place}") for place in range(BULK)]
    last = items[-1].item_id
    await shop.timed(shop.upsert(*items), lambda best: last in best, times)
    await shop.delete(*(item.item_id for item in items))


async def replacement(shop: Shop, n: int, times: Times) -> None:
    """Write an item of the bundle anew, so that it becomes the best."""
    item = shop.loud_item(f"item-{n}")
    await shop.timed(shop.upsert(item), lambda best: item.item_id in best, times)


async def end_of_availability(shop: Shop, n: int, times: Times) -> None:
    """Switch an item off that is among the best."""
    gone = (await shop.best(shop.probe))[0]
    await shop.timed(shop.set_available(gone, False), lambda best: gone not in best, times)


async def deletion(shop: Shop, n: int, times: Times) -> None:
    """Remove an item that is among the best."""
    gone = (await shop.best(shop.probe))[0]
    await shop.timed(shop.delete(gone), lambda best: gone not in best, times)


async def one_image(shop: Shop, n: int, times: Times) -> None:
    """Write one item with a picture, and look until it is known as a history."""
    item_id = f"pictured-{n}"
    began = time.perf_counter()
    done = await shop.upsert(pb.Item(item_id=item_id, image=picture(n)))
    times.acknowledged.append(1e3 * (time.perf_counter() - began))
    while not await shop.best([item_id]):
        pass
    times.visible.append(1e3 * (time.perf_counter() - began))
    times.encode.append(done.encode_us / 1e3)


def picture(seed: int) -> bytes:
    """Return a JPEG of 500 x 500 pixels."""
    from PIL import Image

    pixels = np.random.default_rng(seed).integers(0, 256, (50, 50, 3), np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).resize((500, 500)).save(file, "JPEG")
    return file.getvalue()


def markdown(report: dict[str, Any]) -> str:
    """Return the report for people."""
    on = report["environment"]
    lines = [
        "# From a change of the catalogue to the first answer that shows it",
        "",
        f"`{on['command']}`, {on['time']}, {on['processor']}, {on['cores']} cores, load average "
        f"{on['load_average']} at the beginning. N = {report['items']:,}, d = {report['width']}, "
        f"requests at {report['rate_per_s']:g}/s, {report['load']:.0%} of what a closed loop of "
        f"{CALLERS} callers got ({report['capacity_per_s']:g}/s). Niceness {report['niceness']}. "
        "Milliseconds.",
        "",
        "| change | n | acknowledged p50 | p90 | p99 | shown p50 | p90 | p99 | most |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for line in report["changes"]:
        told, seen = line["acknowledged"], line["visible"]
        cells = [line["kind"], line["changes"], *told[:3], *seen]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    last = report["changes"][-1]
    p50, p90, p99, most = last["encode"]
    beside = last["visible_less_encode"]
    lines += [
        "",
        f"Of the upserts with an image, encoding (decoding and VGG-16, one thread at low priority) "
        f"took p50 {p50}, p90 {p90}, p99 {p99}, at most {most}; the rest p50 {beside[0]}, p90 "
        f"{beside[1]}, p99 {beside[2]}, at most {beside[3]}.",
        "",
        "| other requests' latency | n | p50 | p90 | p99 |",
        "|---|---|---|---|---|",
    ]
    for name, of in report["latency_ms"].items():
        lines.append(f"| {name} | {of['requests']} | {of['p50']} | {of['p90']} | {of['p99']} |")
    return "\n".join(lines) + "\n"


@app.command()
def main(
    folder: Annotated[Path, typer.Argument(help="Receives the bundle and the stores.")],
    *,
    items: Annotated[int, typer.Option(help="Items of the bundle.")] = 1_000_000,
    load: Annotated[float, typer.Option(help="Share of the capacity that is used.")] = 0.5,
    changes: Annotated[int, typer.Option(help="Changes of each kind.")] = 200,
    images: Annotated[int, typer.Option(help="Items with an image.")] = 30,
    markdown_path: Annotated[
        Path | None, typer.Option("--markdown", help="Write the report here.")
    ] = None,
) -> None:
    """Measure, and print the report as JSON."""
    environment = describe_environment()
    plan = Plan(folder=folder, shape=Shape(items=items), load=load, changes=changes, images=images)
    bundle = make_bundle(folder, plan.shape)
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    with tempfile.TemporaryDirectory(dir=folder) as stores:
        store = Path(stores) / "catalogue.db"
        process = multiprocessing.get_context("spawn").Process(
            target=serve, args=(bundle, store, theirs)
        )
        process.start()
        if not ours.poll(PATIENCE_S):
            raise TimeoutError(f"the server was not ready in {PATIENCE_S:g} s")
        port = ours.recv()
        try:
            measured = asyncio.run(measure(f"127.0.0.1:{port}", plan))
        finally:
            ours.send("stop")
            process.join(PATIENCE_S)
    report = {
        "environment": asdict(environment),
        "items": items,
        "width": plan.shape.width,
        "load": load,
        "niceness": os.nice(0),
        **measured,
    }
    typer.echo(json.dumps(report, indent=2))
    if markdown_path is not None:
        markdown_path.parent.mkdir(parents=True, exist_ok=True)
        markdown_path.write_text(markdown(report))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    run_app(app)
