#!/usr/bin/env bash
# The tests on processors that are not here, emulated by qemu-user: x86-64 without AVX (the v2 modules), without
# AVX-512 (v3), and aarch64, for which the modules are built with a cross compiler. Some minutes each.
# Debian, as root: dpkg --add-architecture arm64; apt-get update; apt-get install qemu-user gcc-aarch64-linux-gnu cmake
#
#   emulate.sh [v2] [v3] [aarch64] [exports]
#
# exports: the C files of `export_c`, compiled for two kinds of Arm by the clang of ziglang.
set -euo pipefail
cd "$(dirname "$0")/../.."
venv=$PWD/.venv
out=$PWD/build/emulate
mkdir -p "$out"
# What takes hours when emulated is left to the real machine.
tests=(-m pytest -q -p no:cacheprovider -m "not peers and not exhaustive and not reliability and not once and not mpi"
    -k "not 1000000 and not 100000 and not 60000 and not 20011 and not memory and not cap_is_obeyed"
    tests/kernels tests/test_networks.py tests/test_optimizers.py tests/test_checkpoints.py tests/engine/test_validation.py
    tests/reliability/test_divergence.py tests/reliability/test_subnormals.py)

# python NAME EMULATOR... PROGRAM: an executable that runs Python emulated, and so do the processes that it starts
python() {
    local name=$out/$1
    shift
    printf '#!/bin/sh\nexec %s -0 "%s" "%s" "$@"\n' "${*:1:$#-1}" "$name" "${*: -1}" >"$name"
    chmod +x "$name"
}

emulate_x86_64() { # emulate_x86_64 CPU LEVEL
    local program home site
    program=$("$venv/bin/python" -c 'import os, sys; print(os.path.realpath(sys.executable))')
    home=$("$venv/bin/python" -c 'import sys; print(sys.base_prefix)')
    site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
    python "$2" env PYTHONHOME="$home" PYTHONPATH="$site" qemu-x86_64 -cpu "$1" "$program"
    echo "=== $1"
    "$out/$2" -c "from fusegrad._engine.dispatch import ISA; assert ISA == '$2', ISA; print(ISA)"
    "$out/$2" "${tests[@]}"
}

emulate_aarch64() {
    local root=$out/root site=$out/site build=$out/aarch64-build packages=$out/packages version
    mkdir -p "$root" "$packages"
    if ! test -x "$root/usr/bin/python3.11"; then
        (cd "$packages" && apt-get download -qq $(printf '%s:arm64 ' \
            python3.11-minimal libpython3.11-minimal libpython3.11-stdlib libpython3.11-dev libc6 libgomp1 zlib1g \
            libexpat1 libssl3 libffi8 libstdc++6 libgcc-s1 libbz2-1.0 liblzma5 libsqlite3-0 libuuid1 libcrypt1 \
            libreadline8 libtinfo6 libncursesw6 libdb5.3 libnsl2 libtirpc3))
        for package in "$packages"/*.deb; do dpkg -x "$package" "$root"; done
    fi
    version=$("$venv/bin/python" -c 'import numpy; print(numpy.__version__)')
    rm -rf "$site" && mkdir -p "$site/fusegrad"
    "$venv/bin/pip" install -q --target "$site" --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 \
        --platform manylinux_2_17_aarch64 --only-binary=:all: --python-version 311 \
        "numpy==$version" scipy pytest hypothesis pytest-benchmark threadpoolctl
    cp -r src/fusegrad/. "$site/fusegrad"
    cp -r "$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')"/fusegrad-*.dist-info "$site"
    "$venv/bin/pip" install -q cython
    PATH=$venv/bin:$PATH cmake -S . -B "$build" -DSKBUILD_PROJECT_NAME=fusegrad -DSKBUILD_PROJECT_VERSION=0 \
        -DCMAKE_BUILD_TYPE=Release -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
        -DCMAKE_C_COMPILER=aarch64-linux-gnu-gcc -DCMAKE_C_FLAGS="-I$root/usr/include" \
        -DPython_EXECUTABLE="$venv/bin/python" -DPython_INCLUDE_DIR="$root/usr/include/python3.11" \
        -DPython_NumPy_INCLUDE_DIR="$site/numpy/_core/include" -DFUSEGRAD_WERROR=ON >/dev/null
    cmake --build "$build" >/dev/null
    cp "$build"/*.so "$site/fusegrad/_engine/compiled"
    python aarch64 env QEMU_LD_PREFIX="$root" PYTHONHOME="$root/usr" PYTHONPATH="$site" qemu-aarch64 \
        "$root/usr/bin/python3.11"
    echo "=== aarch64"
    "$out/aarch64" -c "
import platform
from fusegrad._engine.dispatch import ISA
assert (platform.machine(), ISA) == ('aarch64', 'baseline'); print(ISA)"
    "$out/aarch64" "${tests[@]}"
}

emulate_exports() { # emulate_exports TARGET EMULATOR
    echo "=== exported C: $1"
    "$venv/bin/pip" install -q ziglang
    EXPORTS_CC="$venv/bin/python -m ziglang cc -target $1" EXPORTS_RUN=$2 "$venv/bin/python" -m pytest -q \
        -p no:cacheprovider tests/test_exports.py
}

for processor in "${@:-v2 v3 aarch64 exports}"; do
    for name in $processor; do
        case $name in
        v2) emulate_x86_64 Nehalem x86_64_v2 ;;
        v3) emulate_x86_64 Haswell-noTSX x86_64_v3 ;;
        aarch64) emulate_aarch64 ;;
        exports)
            emulate_exports aarch64-linux-musl qemu-aarch64
            emulate_exports "arm-linux-musleabihf -mcpu=cortex_a7" qemu-arm
            ;;
        esac
    done
done
