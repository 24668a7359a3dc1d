"""What `cargo deny` would say of licenses and sources, without building it: every crate that is built comes from crates.io or
from here, has a license that deny.toml allows and needs no newer Rust than we say; every crate that is published says what it must.

  python3 .ci/manifests.py
"""
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CRATES_IO = "registry+https://github.com/rust-lang/crates.io-index"


def allowed(expression, licenses):
    """Whether an SPDX expression can be met with these licenses: AND binds tighter than OR, as in SPDX."""
    tokens = re.findall(r"\(|\)|[^\s()]+", expression.replace("/", " OR "))

    def either():
        met = both()
        while tokens and tokens[0] == "OR":
            tokens.pop(0)
            met |= both()
        return met

    def both():
        met = one()
        while tokens and tokens[0] == "AND":
            tokens.pop(0)
            met &= one()
        return met

    def one():
        token = tokens.pop(0)
        if token == "(":
            met = either()
            tokens.pop(0)
            return met
        if tokens and tokens[0] == "WITH":
            tokens.pop(0)
            token += f" WITH {tokens.pop(0)}"
        return token in licenses

    return either()


def version(text):
    """`1.91` as numbers."""
    return [*map(int, text.split(".")), 0, 0][:3]


def problems():
    """One line for everything that is wrong."""
    metadata = subprocess.run(
        ["cargo", "metadata", "--locked", "--format-version", "1"], cwd=ROOT, check=True, capture_output=True
    )
    metadata = json.loads(metadata.stdout)
    oldest = version(tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["rust-version"])
    licenses = set(tomllib.loads((ROOT / "deny.toml").read_text())["licenses"]["allow"])
    own = set(metadata["workspace_members"])
    for package in metadata["packages"]:
        name = f"{package['name']} {package['version']}"
        if package["source"] not in (None, CRATES_IO):
            yield f"{name}: expected a crate of crates.io, found {package['source']}"
        if not package["license"] or not allowed(package["license"], licenses):
            yield f"{name}: expected a license that deny.toml allows, found {package['license']}"
        if package["rust_version"] and version(package["rust_version"]) > oldest:
            yield f"{name}: expected a crate for Rust {oldest} or older, found one that needs {package['rust_version']}"
        if package["id"] not in own or package["publish"] == []:
            continue
        for field in ["description", "readme", "keywords", "categories", "rust_version"]:
            if not package[field]:
                yield f"{name}: expected a {field} in its manifest"
        folder = Path(package["manifest_path"]).parent
        for file in ["README.md", "LICENSE-MIT", "LICENSE-APACHE"]:
            if not (folder / file).exists():
                yield f"{name}: expected {file} beside its manifest"


if __name__ == "__main__":
    found = list(problems())
    sys.exit("\n".join(found) if found else 0)
