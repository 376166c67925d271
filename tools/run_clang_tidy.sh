#!/bin/sh
# clang-tidy over the C++ sources, with the compile commands of a build directory:
#   tools/run_clang_tidy.sh [BUILD_DIR [FILE...]]      default: build/release, every .cpp under cpp/ but the bindings
set -eu
cd "$(dirname "$0")/.."
build=${1:-build/release}
[ $# -gt 0 ] && shift
tidy=$(command -v clang-tidy || command -v clang-tidy-19 || true)
[ -n "$tidy" ] || { echo "clang-tidy was not found; pip install clang-tidy==19.1.0 or apt-get install clang-tidy-19" >&2; exit 2; }
[ -f "$build/compile_commands.json" ] || { echo "$build has no compile_commands.json; configure a build first" >&2; exit 2; }
if [ $# -gt 0 ]; then files=$*; else files=$(git ls-files 'cpp/**/*.cpp' | grep -v '^cpp/bindings/'); fi
count=$(echo "$files" | wc -w)
[ "$count" -gt 0 ] || { echo "no files to check" >&2; exit 2; }
echo "$files" | tr ' ' '\n' | xargs -P "$(nproc)" -n 4 "$tidy" -p "$build" --quiet
echo "clang-tidy: $count files, no findings"
