#!/usr/bin/env bash
# The kernels built by clang without a warning, and tested on the best instruction set. Then the C files of `export_c`.
# CLANG=clang-19 names a compiler, whose OpenMP is taken too; else clang comes with the wheel of ziglang, without OpenMP.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=.venv-clang
out=$PWD/build/clang
mkdir -p "$out"
test -x $venv/bin/python || "${PYTHON:-python3}" -m venv $venv
openmp=ON
if test -z "${CLANG:-}"; then
    openmp=OFF
    $venv/bin/pip install -q ziglang
    zig=$($venv/bin/python -c 'import os, ziglang; print(os.path.join(os.path.dirname(ziglang.__file__), "zig"))')
    # zig names processors in a way of its own, and the cache of its builds belongs here.
    cat >"$out/cc" <<END
#!/bin/sh
export ZIG_GLOBAL_CACHE_DIR="$out/cache" ZIG_LOCAL_CACHE_DIR="$out/cache"
for a; do shift; case \$a in -march=x86-64-v*) a=-mcpu=x86_64_v\${a##*-v};; esac; set -- "\$@" "\$a"; done
exec "$zig" cc "\$@"
END
    chmod +x "$out/cc"
    CLANG=$out/cc
fi
"$CLANG" --version | head -1
rm -rf "$out/wheel"
# zig's own library of such functions does not ask the processor what it has (__builtin_cpu_supports).
LDFLAGS=$(if test $openmp = OFF; then gcc -print-libgcc-file-name; fi) CC=$CLANG $venv/bin/pip wheel -q --no-deps \
    --wheel-dir "$out/wheel" --config-settings=build-dir="$out/build" \
    --config-settings=cmake.define.FUSEGRAD_WERROR=ON --config-settings=cmake.define.FUSEGRAD_OPENMP=$openmp .
$venv/bin/pip install -q --force-reinstall --no-deps "$out"/wheel/*.whl
$venv/bin/pip install -q "$(ls "$out"/wheel/*.whl)[test]"
# FUSEGRAD_MAX_ISA tests another instruction set than the best one; all are compiled.
$venv/bin/python -m pytest -q -p no:cacheprovider \
    -m "not peers and not exhaustive and not reliability and not once and not mpi" \
    ${TESTS:-tests/kernels tests/test_networks.py tests/test_optimizers.py}

echo "=== exported C"
EXPORTS_CC=$CLANG $venv/bin/python -m pytest -q -p no:cacheprovider tests/test_exports.py
