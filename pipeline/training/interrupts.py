"""The reasons to end a training from outside: the user's signal, and a lost lease."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.stop import Stop
from pipeline.store.lease import Lease


@dataclass(frozen=True)
class Interrupts:
    """What may end a training from outside. `lease` is None if the training takes none."""

    stop: Stop
    lease: Lease | None

    def check(self) -> None:
        """Raise Stopped or Busy if the training must end."""
        self.stop.check()
        if self.lease:
            self.lease.check()
