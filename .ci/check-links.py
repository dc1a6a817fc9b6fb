#!/usr/bin/env python3
"""Checks that every relative link in the repository's Markdown files outside docs/ leads to a file.

mkdocs checks docs/ itself, but knows nothing of README.md and its neighbours.
"""

import pathlib
import re
import subprocess
import sys

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)[^)]*\)")
CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def anchors(path):
    """GitHub's anchors of the headings of a Markdown file."""
    found = set()
    for line in CODE.sub("", path.read_text()).splitlines():
        if line.startswith("#"):
            heading = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", line.lstrip("#").strip())
            found.add(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-"))
    return found


def main():
    files = subprocess.run(["git", "ls-files", "-z", "*.md"], capture_output=True, check=True).stdout
    broken = 0
    for name in filter(None, files.decode().split("\0")):
        path = pathlib.Path(name)
        if "fixtures" in path.parts or "fuzz" in path.parts:
            continue
        for target in LINK.findall(CODE.sub("", path.read_text())):
            if re.match(r"[a-z]+:", target):
                continue
            file, _, anchor = target.partition("#")
            to = path.parent / file if file else path
            if not to.exists():
                print(f"{name}: broken link: {target}", file=sys.stderr)
                broken += 1
            elif anchor and to.suffix == ".md" and anchor not in anchors(to):
                print(f"{name}: no such heading: {target}", file=sys.stderr)
                broken += 1
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
