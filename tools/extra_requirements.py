"""Prints the requirements of an optional-dependency group of pyproject.toml, one a line.

The Makefile installs test and development tools with it before (and without) building the package itself.
"""

import re
import sys
import tomllib
from pathlib import Path


def requirements(group: str) -> list[str]:
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    names = []
    for item in project["optional-dependencies"][group]:
        own = re.fullmatch(rf"{project['name']}\[(\w+)\]", item)
        names += requirements(own.group(1)) if own else [item]
    return names


if __name__ == "__main__":
    print("\n".join(requirements(sys.argv[1])))
