"""Brings the live catalogue into every bundle that is loaded."""

from mmsr.engine.catalogue.live import LiveCatalogue
from mmsr.engine.deployment import Deployment


class CatalogueCarrier:
    """A `deployment.Carrier`: once carried over, a bundle is shown every change as it comes."""

    def __init__(self, catalogue: LiveCatalogue) -> None:
        self._catalogue = catalogue

    async def carry(self, new: Deployment) -> None:
        """Show a bundle what it does not contain. `CatalogueFull`: its spare rows are too few."""
        live = await self._catalogue.attach(new.model)
        new.service.items = live.index

    def complete(self, new: Deployment) -> None:
        """Nothing is left to do: what has changed since `carry` was shown to the bundle too."""

    def leave(self, old: Deployment) -> None:
        """Show a bundle nothing more."""
        self._catalogue.detach(old.model)
