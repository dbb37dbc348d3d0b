#!/usr/bin/env bash
# The whole test suite under sanitizers: address and undefined behaviour (GCC), on each instruction set, and
# threads (clang, whose OpenMP tells the sanitizer of its barriers through Archer).
# Debian: apt-get install clang-16 libomp-16-dev libclang-rt-16-dev; another one by CLANG=clang-19, say.
#
#   sanitize.sh [address] [threads]
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
clang=${CLANG:-clang-16}
out=build/sanitize
mkdir -p "$out"
# --capture=sys: the report of a sanitizer, which ends the process, is not caught.
tests=(-m pytest -q --capture=sys -p no:cacheprovider -m "not peers and not exhaustive and not reliability and not mpi" tests)
for name in cli demo docs exports lessons plots sklearn; do tests+=(--ignore "tests/test_$name.py"); done    # other libraries

install() { # install ENVIRONMENT SANITIZERS: a virtual environment with fusegrad built so
    test -x "$1/bin/python" || "$python" -m venv "$1"
    rm -rf "$1/wheel"
    "$1/bin/pip" wheel -q --no-deps --wheel-dir "$1/wheel" --config-settings=cmake.define.FUSEGRAD_SANITIZE="$2" \
        --config-settings=build-dir="$1/build" .
    "$1/bin/pip" install -q --force-reinstall --no-deps "$1"/wheel/*.whl
    "$1/bin/pip" install -q "$(ls "$1"/wheel/*.whl)[test]"
}

address() {
    echo "=== address, undefined behaviour"
    CC=gcc install "$out/address" address,undefined
    runtime="$(gcc -print-file-name=libasan.so):$(gcc -print-file-name=libubsan.so)"
    # CPython leaks at exit by design, and a test asks for more memory than there is.
    isas=$(LD_PRELOAD=$runtime ASAN_OPTIONS=detect_leaks=0 "$out/address/bin/python" -c '
from fusegrad._engine.dispatch import supported_isas; print(*supported_isas())')
    for isa in $isas; do
        echo "=== $isa"
        FUSEGRAD_MAX_ISA=${isa/baseline/} LD_PRELOAD=$runtime ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 \
            UBSAN_OPTIONS=print_stacktrace=1 "$out/address/bin/python" "${tests[@]}"
    done
}

threads() {
    echo "=== threads"
    CC=$clang install "$out/thread" thread
    # The sanitizer must be there before libstdc++, so Python itself is linked with it.
    "$out/thread/bin/python" - >"$out/link" <<'END'
import sysconfig
get = sysconfig.get_config_var
static = f"{get('LIBPL')}/{get('LIBRARY')}"
print(f"-I{sysconfig.get_paths()['include']} -Wl,-export-dynamic {static} -lm -ldl -lutil -lpthread")
END
    echo '#include <Python.h>
int main(int argc, char **argv) { return Py_BytesMain(argc, argv); }' >"$out/python.c"
    read -r -a flags <"$out/link"
    "$clang" -fsanitize=thread "$out/python.c" -o "$out/python" "${flags[@]}"
    archer=$(readlink -e "$("$clang" -print-resource-dir)/../../libarcher.so")
    PYTHONHOME=$("$out/thread/bin/python" -c 'import sys; print(sys.base_prefix)') \
        PYTHONPATH=$("$out/thread/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])') \
        OMP_TOOL_LIBRARIES=$archer \
        TSAN_OPTIONS="ignore_noninstrumented_modules=1 allocator_may_return_null=1 die_after_fork=0" \
        "$out/python" "${tests[@]}"
}

for name in ${@:-address threads}; do "$name"; done
echo "=== clean"
