#!/bin/sh
# make lock
#
# Writes the locks anew from pyproject.toml with pip-compile, for Python 3.11, keeping what still fits; given `--upgrade`,
# with the newest that fit. requirements.lock holds all but PyTorch; torch-cpu.lock the wheel without CUDA, for which pip
# must be told of an index that has it (PIP_EXTRA_INDEX_URL, or a folder as PIP_FIND_LINKS); torch-cuda.lock the wheel
# of the main index, with what of NVIDIA's it needs.
set -eu
cd "$(dirname "$0")"
compile() { # INPUT OUTPUT OPTION…: hashes of all platforms, and no index's address
  input=$1 output=$2; shift 2
  pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras --no-annotate --no-header --no-emit-index-url \
    --no-emit-find-links --no-emit-trusted-host --output-file "$output" "$@" "$input"
}
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
grep -o '"torch==[^"]*"' ../../pyproject.toml | tr -d '"' >"$work/torch.in"
cp requirements.lock "$work/all" 2>/dev/null || :
compile ../../pyproject.toml "$work/all" --extra hub --extra search --extra lineage --unsafe-package torch "$@"
# a package's block of lines, where its name is wanted
blocks() { awk -v wanted="$1" '/^[a-z0-9]/ { split($1, part, "=="); keep = index(wanted, " " part[1] " ") } keep'; }
names() { sed -n 's/^\([a-z0-9][^=]*\)==.*/\1/p' "$1"; }
blocks " $(names "$work/all" | grep -vx torch | tr '\n' ' ') " <"$work/all" | sed '/^#/d; /^$/d' >requirements.lock
compile "$work/torch.in" "$work/cpu"
blocks " torch " <"$work/cpu" >torch-cpu.lock
PIP_CONFIG_FILE=/dev/null PIP_EXTRA_INDEX_URL='' PIP_FIND_LINKS='' compile "$work/torch.in" "$work/cuda"
names requirements.lock >"$work/known"
blocks " $(names "$work/cuda" | grep -vxF -f "$work/known" | tr '\n' ' ') " <"$work/cuda" >torch-cuda.lock
