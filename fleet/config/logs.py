"""How a log record looks: one line that a person can read, with the name of the process that wrote it."""

import logging
from datetime import UTC, datetime


class LineFormatter(logging.Formatter):
    """`2026-03-01T12:00:00.123Z WARNING ingest fleet.telemetry: message`; a traceback follows, indented.

    Line breaks inside a message are escaped, so that nothing a device sends can forge a record of its own.
    """

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """One record, without a line break at its end."""
        at = datetime.fromtimestamp(record.created, tz=UTC).isoformat(timespec="milliseconds")
        message = record.getMessage().replace("\r", "\\r").replace("\n", "\\n")
        line = f"{at.removesuffix('+00:00')}Z {record.levelname:<7} {self._process} {record.name}: {message}"
        if record.exc_info:
            trace = self.formatException(record.exc_info)
            line += "".join(f"\n    {part}" for part in trace.splitlines())
        return line
