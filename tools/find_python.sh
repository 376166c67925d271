#!/bin/sh
# Prints the path of a Python >= 3.12 that can make virtual environments, or says what to install and fails.
# Looks at PATH first, then at interpreters that only pyenv or uv know.
set -u

usable() {
  "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))' >/dev/null 2>&1
}

candidates() {
  [ -n "${PYTHON:-}" ] && echo "$PYTHON"
  for name in python3.13 python3.12 python3.14 python3 python; do command -v "$name" 2>/dev/null; done
  for root in "${PYENV_ROOT:-$HOME/.pyenv}"; do
    ls -d "$root"/versions/3.1[2-9]*/bin/python3 2>/dev/null | sort -V
  done
  if command -v uv >/dev/null 2>&1; then uv python find '>=3.12' 2>/dev/null; fi
  ls -d "$HOME"/.local/share/uv/python/cpython-3.1[2-9]*/bin/python3 2>/dev/null
}

for python in $(candidates); do
  # A pyenv shim exists for versions that are not active; ask the interpreter itself.
  if usable "$python"; then
    "$python" -c 'import sys; print(sys.executable)'
    exit 0
  fi
done

cat >&2 <<'TEXT'
imp needs Python 3.12 or newer with venv and pip, and none was found on PATH, in pyenv or in uv.
Install one, for example with one of:
  uv python install 3.12
  pyenv install 3.12
  apt-get install python3.12-venv     (Ubuntu 24.04, Debian 13)
  dnf install python3.12
or name it: make PYTHON=/path/to/python3.12
TEXT
exit 1
