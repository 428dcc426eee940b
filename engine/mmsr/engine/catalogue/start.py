"""From the settings to a live catalogue, or none."""

import time
from functools import partial

from mmsr.engine.catalogue.config import CatalogueLimits
from mmsr.engine.catalogue.encoders import EncodeLimits, Encoders
from mmsr.engine.catalogue.live import Clocks, LiveCatalogue
from mmsr.engine.catalogue.pump import InThread
from mmsr.engine.catalogue.store import open_sqlite
from mmsr.engine.config import CatalogueConfig


def live_catalogue(config: CatalogueConfig, compute: InThread) -> LiveCatalogue | None:
    """Return what `[catalogue]` asks for, not yet open; `compute` runs calls between batches."""
    if config.path is None:
        return None
    limits = EncodeLimits(decode_s=config.decode_s, decode_bytes=config.decode_bytes)
    return LiveCatalogue(
        partial(open_sqlite, config.path, config.kept_image_bytes),
        Encoders(limits),
        compute,
        Clocks(monotonic=time.monotonic, utc=time.time),
        CatalogueLimits(),
    )
