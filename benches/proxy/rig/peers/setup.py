"""What every peer is told when it is started."""

import pathlib
from dataclasses import dataclass

from ..keys import Keys
from ..processes import Placement


@dataclass(frozen=True)
class Variant:
    """How the proxies of one group of shapes run."""

    workers: int = 1
    tls: bool = False
    # Access logs, to a file.
    logged: bool = True
    # A folder with this many sessions, or none but one.
    sessions: int = 0


@dataclass(frozen=True)
class Scene:
    """What stands around the proxies of a group."""

    tools: dict
    place: Placement
    keys: Keys
    folder: pathlib.Path
    upstream: int
    echo: int
    authenticator: int
    variant: Variant

    def cores(self):
        return self.place.proxy(self.variant.workers)
