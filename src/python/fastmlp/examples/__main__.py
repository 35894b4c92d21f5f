"""``python -m fastmlp.examples``: run the lessons, each in a fresh process, and write one report of what they show."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from fastmlp.examples.blocks import Block
from fastmlp.examples.report import Lesson, html

FOLDER = Path(__file__).parent


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; ``arguments`` stand for it. Return 1 if a lesson failed, else 0."""
    options = parse(arguments)
    if find_spec("matplotlib") is None:
        print('The lessons draw with matplotlib, which is not installed. Get it with: pip install "fastmlp[plot]"')
        return 1
    options.output.mkdir(parents=True, exist_ok=True)
    report = options.output / "report.html"
    lessons = []
    start = time.perf_counter()
    for path in options.lessons:
        print(f"{name_of(path):<28}", end="", flush=True)
        lesson = run(path, options.quick)
        lessons.append(lesson)
        print(f"{lesson.seconds:6.1f} s   {'FAILED' if lesson.failed else 'done'}", flush=True)
        if options.verbose or lesson.failed:
            print("\n".join(block.printed + block.error for block in lesson.blocks))
        report.write_text(html(lessons, options.quick), encoding="utf-8")  # after each: an interruption keeps the rest
    print(f"\n{len(lessons)} lessons in {time.perf_counter() - start:.0f} s: {report}")
    return int(any(lesson.failed for lesson in lessons))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m fastmlp.examples", description="Run the lessons and write one report with all they show."
    )
    add = parser.add_argument
    add("names", nargs="*", help="lessons, or what their names begin with, such as 1; all if there is none")
    add("--quick", action="store_true", help="only show that they run: smaller, with worse numbers")
    add("--output", type=Path, default=Path("fastmlp_examples"), help="folder of report.html (%(default)s)")
    add("--verbose", action="store_true", help="print here, too, what the lessons print")
    options = parser.parse_args(arguments)
    options.lessons = paths()
    if options.names:
        for name in options.names:
            if not any(name_of(path).startswith(name) for path in paths()):
                parser.error(f"no lesson begins with {name!r}; there are {', '.join(map(name_of, paths()))}")
        options.lessons = [path for path in paths() if name_of(path).startswith(tuple(options.names))]
    return options


def paths() -> list[Path]:
    """Return the files of all lessons, in order."""
    return sorted(FOLDER.glob("plot_*.py"))


def name_of(path: Path) -> str:
    """Return the name of a lesson: its file's, without what all have in common."""
    return path.stem.removeprefix("plot_")


def run(path: Path, quick: bool) -> Lesson:
    """Run one lesson in a process of its own."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, "-m", "fastmlp.examples.blocks", str(path), str(result)]
        environment = {**os.environ, "FASTMLP_QUICK": "1" if quick else os.environ.get("FASTMLP_QUICK", "0")}
        ended = subprocess.run(command, env=environment, check=False)
        if result.exists():
            blocks = [Block(**block) for block in json.loads(result.read_text(encoding="utf-8"))]
        else:  # the process died
            blocks = [Block(name_of(path), error=f"The process ended with {ended.returncode} and left nothing.")]
    return Lesson(name_of(path), blocks, time.perf_counter() - start)


if __name__ == "__main__":
    sys.exit(main())
