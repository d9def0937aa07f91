"""`make demo`: tells the story, prints its figures, and leaves the pages up until Ctrl-C.

    python -m fleet.demo [--exit] [--directory DIR] [--port PORT]

Exit status: 0 if every step did what the story says, 1 otherwise (the reason is the last line), 130 on Ctrl-C.
"""

import argparse
import json
import signal
import sys
from pathlib import Path

from fleet.demo import report
from fleet.demo.control_plane import LOGIN, ROOT
from fleet.demo.fleet_plan import DEVICES
from fleet.demo.progress import StoryError
from fleet.demo.story import Story


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="make demo", description="A small fleet on this machine, the whole story.")
    parser.add_argument("--exit", action="store_true", help="end after the story instead of leaving the pages up")
    parser.add_argument("--directory", type=Path, default=ROOT / "var" / "demo", help="where everything is kept")
    parser.add_argument("--port", type=int, default=None, help="port of the pages (default: 8000, or a free one)")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _interrupt)
    story = Story(options.directory.resolve(), options.port)
    try:
        return _run(story, stay=not options.exit)
    except StoryError as error:
        print(f"\ndemo: {error}", file=sys.stderr)
        print(f"demo: logs in {options.directory}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndemo: interrupted, stopping everything")
        return 130
    finally:
        story.close()


def _run(story: Story, *, stay: bool) -> int:
    figures = story.tell()
    path = story.control.directory / "report.json"
    path.write_text(json.dumps(figures, indent=2) + "\n")
    print("\n" + report.table(figures))
    failed = report.failures(figures, len(DEVICES))
    for expected in failed:
        print(f"NOT AS TOLD: expected {expected}")
    print(f"\nreport: {path}")
    print(
        f"{'every step did what the story says' if not failed else 'the story did not come true'}, "
        f"{figures['seconds']:.0f} s"
    )
    if stay:
        print(f"\nThe pages stay up at {story.control.url} (login {LOGIN} / {story.control.password}). Ctrl-C stops.")
        signal.pause()
    return 1 if failed else 0


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
