"""Brings candidates beside the champion and lets them go, as the director's signed answers say.

A candidate is fetched and verified as any version, in the lane of its model and only while no update of it is under way;
it never becomes current, whatever happens. What fails is tried again with the next good answer of the director. Used by the
agent's own thread.
"""

import logging
from collections.abc import Callable
from typing import Final

from device_client.agent.installer import Installer, failure_of
from device_client.agent.jobs import Continuation, Jobs
from device_client.core.acceptance import Shadowing
from device_client.core.errors import DeviceError
from device_client.core.keys import pairs_key, shadow_key
from device_client.ports import Host, Journal, Trust
from device_client.wire.shadow import ShadowBudget

log = logging.getLogger(__name__)

AGAIN_S: Final = 60.0


class Shadows:
    """The candidates of all models. `resting` says whether no update of a model is under way."""

    def __init__(
        self,
        *,
        installer: Installer,
        trust: Trust,
        host: Host,
        journal: Journal,
        jobs: Jobs,
        resting: Callable[[str], bool],
        ask_after: Callable[[float], None],
    ) -> None:
        self._installer = installer
        self._trust = trust
        self._host = host
        self._journal = journal
        self._jobs = jobs
        self._resting = resting
        self._ask_after = ask_after
        self._wanted: dict[str, Shadowing] = {}

    def kept(self, model: str) -> frozenset[str]:
        """The slot that must not be collected."""
        digest = self._journal.recall(shadow_key(model))
        return frozenset({digest}) if digest else frozenset()

    def told(self, model: str, wanted: Shadowing | None) -> None:
        """What the director wants to run beside the champion of this model; None: nothing."""
        digest = "" if wanted is None else wanted.target.digest
        if digest != (self._journal.recall(shadow_key(model)) or ""):
            self._journal.remember({shadow_key(model): digest})
        if wanted is None:
            if self._journal.recall(pairs_key(model)):
                self._journal.remember({pairs_key(model): ""})
            if self._wanted.pop(model, None) is not None:
                log.info("%s: nothing runs beside what is served any more", model)
            self._host.shadow(model, None, ShadowBudget())
            return
        self._wanted[model] = wanted
        self._jobs.submit(model, lambda: self._bring(model, wanted))

    def keep(self) -> None:
        """Remember what was compared and waits for labels; after windows were collected."""
        kept = {pairs_key(model): self._host.shadow_memory(model) for model in self._wanted}
        if new := {key: memory for key, memory in kept.items() if memory is not None}:
            self._journal.remember(new)

    def _bring(self, model: str, wanted: Shadowing) -> Continuation:
        """In the model's lane."""
        target = wanted.target
        if self._wanted.get(model) is not wanted or not self._resting(model):
            return lambda: None
        if self._host.shadowing(model) == (target.digest, wanted.budget):
            return lambda: None
        try:
            self._trust.authorise(target)
            slot = self._installer.bring(model, target, lambda: not self._resting(model))
            self._host.shadow(model, slot, wanted.budget, self._journal.recall(pairs_key(model)) or "")
        except Exception as error:  # noqa: BLE001 - whatever goes wrong beside the champion must not touch it
            known = failure_of(error)
            return lambda: self._failed(model, target.version, known)
        return lambda: log.info("%s %s runs beside what is served", model, target.version)

    def _failed(self, model: str, version: str, error: DeviceError) -> None:
        log.warning("%s %s does not run beside what is served: %s", model, version, error)
        if model in self._wanted:
            self._ask_after(AGAIN_S)
