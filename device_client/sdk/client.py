"""The client of one device, in the application's process: serves models at once, updates them in the background."""

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from device_client import assembly
from device_client.config import Config, StatePaths, load_config, state_paths
from device_client.core.errors import DeviceError
from device_client.ports import Serving
from device_client.sdk.host import ModelHost
from device_client.sdk.model import ServedModel
from device_client.wire.bundles import Contract
from device_client.wire.names import parse_model

log = logging.getLogger(__name__)

STOP_WITHIN_S: Final = 15.0
NO_DEVICE: Final = "not-enrolled"


class Client:
    """One device's models. `Client(state_dir)` raises `ConfigError` for a device that is not enrolled."""

    def __init__(self, state_dir: str | os.PathLike[str] | None = None, *, required: bool = True) -> None:
        self._paths = state_paths(state_dir)
        self._required = required
        self._config = self._load_config()
        threads = self._config.intra_op_threads if self._config is not None else 1
        self._runtimes = assembly.installed_runtimes(threads)
        self._host = ModelHost(
            device_id=self.device_id,
            runtimes=self._runtimes,
            clock=assembly.system_clock(),
            shadows=assembly.shadow_runs(self._paths),
        )
        self._contracts: dict[str, Contract] = {}
        self._models: dict[str, ServedModel] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._parts: assembly.Parts | None = None
        self._thread: threading.Thread | None = None
        self._held = ExitStack()

    @classmethod
    def from_env(cls) -> "Client":
        """The device of `MODELFLEET_DEVICE_STATE`. Never raises: without a usable device, fallbacks are served."""
        return cls(required=False)

    def _load_config(self) -> Config | None:
        try:
            return load_config(self._paths)
        except DeviceError as error:
            if self._required:
                raise
            log.error("no updates, only fallbacks: %s", error)  # noqa: TRY400 - the sentence says it all
            return None

    # ------------------------------------------------------------ what the application asks

    @property
    def device_id(self) -> str:
        """This device's name in its fleet."""
        return self._config.device_id if self._config is not None else NO_DEVICE

    @property
    def state_dir(self) -> Path:
        """Where this device keeps its state. The application may keep files of its own there."""
        return self._paths.root

    @property
    def paths(self) -> StatePaths:
        """The parts of the state directory."""
        return self._paths

    @property
    def stopping(self) -> bool:
        """Whether the application should come to an end."""
        return self._stopping.is_set()

    def wait(self, seconds: float | None = None) -> bool:
        """Sleep, but only until the client is stopped; says whether it is."""
        return self._stopping.wait(seconds)

    def model(
        self, name: str, *, contract: Contract | None = None, fallback: str | os.PathLike[str] | None = None
    ) -> ServedModel:
        """A model by its fleet name. `fallback` is a file of the application's own, served while nothing is installed."""
        parse_model(name)
        with self._lock:
            known = self._models.get(name)
            if known is None:
                known = self._models[name] = ServedModel(self._host, name, self.start)
            if contract is not None:
                self._contracts[name] = contract
            parts = self._parts
        if fallback is not None:
            self._load_fallback(name, Path(fallback))
        if parts is not None:
            parts.agent.post(lambda: parts.agent.watch(name, contract))
        return known

    def _load_fallback(self, name: str, path: Path) -> None:
        try:
            self._host.set_fallback(name, assembly.load_fallback(path, name, self._runtimes))
        except DeviceError:
            log.exception("the fallback of %s cannot be served", name)

    # ------------------------------------------------------------ life

    def start(self) -> None:
        """Start the agent's threads; a second call does nothing. Raises `ConfigError` if this device cannot have one."""
        with self._lock:
            if self._thread is not None or self._config is None or self._stopping.is_set():
                return
            try:
                self._parts = self._build(self._config)
            except DeviceError as error:
                self._held.close()
                if self._required:
                    raise
                log.error("no updates, only what is installed: %s", error)  # noqa: TRY400 - the sentence says it all
                self._serve_installed(self._config)
                return
            self._thread = threading.Thread(target=self._run, args=(self._parts,), name="modelfleet-agent", daemon=True)
            self._thread.start()

    def _build(self, config: Config) -> assembly.Parts:
        self._held.enter_context(assembly.sole_agent(self._paths))
        return assembly.build(
            config,
            self._paths,
            host=self._host,
            meter=self._host,
            found=self._runtimes,
            models=tuple(self._models),
            contracts=self._contracts,
        )

    def _serve_installed(self, config: Config) -> None:
        """Without an agent (a disk too full for its journal, say) the slots alone say what is verified and current."""
        slots = assembly.installed_slots(self._paths)
        for model in dict.fromkeys((*config.models, *self._models)):
            try:
                current = slots.links(model).current
                if current:
                    slot = slots.open(model, current)
                    self._host.prepare(slot)
                    self._host.switch(Serving(model, slot.manifest.version, current, reason="installed; no agent"))
            except (DeviceError, OSError):
                log.exception("the installed version of %s cannot be served", model)

    def _run(self, parts: assembly.Parts) -> None:
        try:
            parts.agent.run(self._stopping)
        except Exception:
            log.exception("the agent has died; what is loaded goes on being served")
        finally:
            parts.database.close()

    @property
    def alive(self) -> bool:
        """Whether the agent is at work."""
        return self._thread is not None and self._thread.is_alive()

    def stop(self) -> None:
        """Stop in an orderly way: what was counted is kept, downloads go on at the next start."""
        self._stopping.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(STOP_WITHIN_S)
        self._held.close()

    def ask_to_stop(self) -> None:
        """Like `stop`, but returns at once: for signal handlers."""
        self._stopping.set()

    def __enter__(self) -> "Client":  # noqa: PYI034 - `Self` needs Python 3.11
        return self

    def __exit__(self, *_raised: object) -> None:
        self.stop()

    @contextmanager
    def started(self) -> Iterator["Client"]:
        """Start, and stop in the end."""
        self.start()
        try:
            yield self
        finally:
            self.stop()
