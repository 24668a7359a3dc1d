#!/usr/bin/env bash
# What CI checks without running it: the libraries with the fewest features, the oldest Rust, other processors. A toolchain or a
# target that is not installed is told, and passed over.
set -euo pipefail
cd "$(dirname "$0")/.."

oldest=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
libraries=(-p quant-core -p tn-formats -p tn-qat)

cargo clippy --locked -p onnx-bridge --no-default-features -- -D warnings

if rustup run "$oldest" rustc --version 2>/dev/null; then
    CARGO_TARGET_DIR=target/oldest cargo "+$oldest" check --locked --workspace
else
    echo "skipped: Rust $oldest is not installed; clippy's incompatible_msrv and the dependencies' own rust-version are checked"
fi

for target in aarch64-unknown-linux-gnu wasm32-unknown-unknown; do
    if [ -n "$(find "$(rustc --print target-libdir --target "$target")" -name 'libcore-*' 2>/dev/null)" ]; then
        cargo check --locked --target "$target" "${libraries[@]}"
        cargo check --locked --target "$target" -p onnx-bridge --no-default-features
    else
        echo "skipped: the standard library for $target is not installed"
    fi
done
