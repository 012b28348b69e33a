#!/bin/sh
# Builds the fuzz targets with libFuzzer's instrumentation on stable Rust and runs one of them:
#   fuzz/run.sh answer -max_total_time=300
set -eu
cd "$(dirname "$0")"
target=$1
shift
host=$(rustc -vV | sed -n 's/^host: //p')
# With --target the flags are for the targets alone, not for build scripts and procedural macros.
RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing -Ccodegen-units=1" \
    cargo build --release --target "$host" --bin "$target"
mkdir -p "artifacts/$target" "target/corpus/$target"
# What it finds goes to target/corpus; fuzz/corpus is what is kept.
exec "target/$host/release/$target" -artifact_prefix="artifacts/$target/" -max_len=4096 "$@" "target/corpus/$target" "corpus/$target"
