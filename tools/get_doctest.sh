#!/bin/sh
# Prints the include directory that holds doctest/doctest.h, fetching it into .deps/ where the system has none.
set -eu
deps="$(cd "$(dirname "$0")/.." && pwd)/.deps"

for dir in /usr/include /usr/local/include "$deps/usr/include"; do
  if [ -f "$dir/doctest/doctest.h" ]; then echo "$dir"; exit 0; fi
done

mkdir -p "$deps"
if command -v apt-get >/dev/null 2>&1 && command -v dpkg >/dev/null 2>&1; then
  if [ "$(id -u)" = 0 ]; then apt-get update -qq >/dev/null 2>&1 || true; fi
  # Downloading and unpacking needs no root, unlike installing.
  if (cd "$deps" && apt-get download -qq doctest-dev >/dev/null 2>&1 && dpkg -x doctest-dev_*.deb .); then
    echo "$deps/usr/include"
    exit 0
  fi
fi

url=https://raw.githubusercontent.com/doctest/doctest/v2.4.9/doctest/doctest.h
mkdir -p "$deps/usr/include/doctest"
if command -v curl >/dev/null 2>&1 && curl -fsSL -o "$deps/usr/include/doctest/doctest.h" "$url"; then
  echo "$deps/usr/include"
  exit 0
fi
rm -f "$deps/usr/include/doctest/doctest.h"
echo "The C++ tests need the header doctest/doctest.h (2.4 or newer). Install it: apt-get install doctest-dev, dnf install doctest-devel, or brew install doctest." >&2
exit 1
