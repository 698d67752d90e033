"""Join items into sets, directly or through further items."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)


class Connected(Generic[Item]):
    """Sets that grow together, by union and find; an item without a join is alone."""

    def __init__(self) -> None:
        self._parent: dict[Item, Item] = {}

    def root(self, item: Item) -> Item:
        """Return the item that represents all items joined with `item`; it changes with later joins."""
        parent = self._parent
        while parent.setdefault(item, item) != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    def join(self, item: Item, second: Item) -> None:
        """Put the items of both in one set, which `item`'s root represents."""
        self._parent[self.root(second)] = self.root(item)
