#!/usr/bin/env python3
"""What the shipped binaries are made of beside this repository's own code, and under which licences.

    third-party.py notices        every licence text and notice, for the packages
    third-party.py licence        one SPDX expression for all, for the rpm
    third-party.py sbom TARGET    reads cargo-cyclonedx's list, writes one of what is linked for TARGET

Cargo says what is linked: neither what only tests or builds, nor macros, which run in the compiler. Beside that are Rust's
standard library, whose notices come with the toolchain, and musl. The same bytes from any folder.
"""

import html
import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGETS = ["x86_64-unknown-linux-musl", "aarch64-unknown-linux-musl"]
# In place of what a crate leaves out: of the repository that it names.
LEFT_OUT = {name: file for file in (ROOT / "packaging/licences").iterdir() for name in file.name.split(",")}
NOTICE = re.compile(r"(licen[cs]e|copying|copyright|notice|unlicense)", re.I)
# Nothing of these is linked.
ASIDE = {"tests", "benches", "examples", "fuzz", "target"}


def output(*command):
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def linked(target):
    """(name, version) of every crate, this one first."""
    tree = output("cargo", "tree", "--locked", "--package", "node-agent", "--edges", "normal,no-proc-macro",
                  "--target", target, "--prefix", "none", "--no-dedupe", "--format", "{p}")
    crates = [tuple(line.split()[:2]) for line in tree.splitlines()]
    own = crates[0]
    return [own] + sorted(set(crates) - {own})


def all_linked():
    own, *rest = linked(TARGETS[0])
    for target in TARGETS[1:]:
        rest += linked(target)[1:]
    return own, sorted(set(rest))


def packages():
    """What Cargo knows of each crate."""
    metadata = json.loads(output("cargo", "metadata", "--locked", "--format-version", "1"))
    return {(p["name"], "v" + p["version"]): p for p in metadata["packages"]}


def licence(package):
    # The slash is an older way to write OR.
    return package["license"].replace("/", " OR ").replace("  ", " ")


def texts_of(folder):
    """The licences and notices in a crate's folder, also those of what it has copied in."""
    for at, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if f not in ASIDE)
        for file in sorted(files):
            # Not a module that is called so.
            if NOTICE.match(file) and not file.endswith((".rs", ".json")):
                yield Path(at, file).read_text()


def standard_library():
    """The version, and (name, texts) of every crate that Rust's standard library is built from, on any platform."""
    version = output("rustc", "--version").split()[1]
    page = Path(output("rustc", "--print", "sysroot").strip(), "share/doc/rust/COPYRIGHT-library.html").read_text()
    own, *crates = re.split(r"<h3>", page)
    plain = lambda text: html.unescape(re.sub(r"<[^>]*>", "", text))
    lines = [line.strip() for line in plain(own.split('id="short-version"')[1].split(">", 1)[1]).splitlines()]
    yield f"Rust's standard library {version}", ["\n".join(line for line in lines if line)]
    for crate in crates:
        name = re.search(r"[\w.+-]+-\d[\w.+-]*", crate.split("</h3>")[0])[0]
        yield f"{name} (standard library)", [plain(text) for text in re.findall(r"<pre>(.*?)</pre>", crate, re.S)]


def notices():
    own, crates = all_linked()
    known = packages()
    texts = {}

    def add(who, text):
        # The same but for line breaks is the same.
        texts.setdefault(" ".join(text.split()), (text.strip("\n"), []))[1].append(who)

    print(f"Third-party software in {own[0]} {own[1][1:]}\n")
    print("The binary contains the crates below, Rust's standard library, and the C library musl. First each with its licence")
    print("in SPDX's words; where that has an OR, any one of them is enough. Then every licence text and notice that they come")
    print("with, each once, under the names of those that it came with.\n")
    for crate in crates:
        package = known[crate]
        name = f"{crate[0]} {crate[1][1:]}"
        print(f"{name:42} {licence(package)}")
        found = list(texts_of(Path(package["manifest_path"]).parent))
        if not found and crate[0] not in LEFT_OUT:
            sys.exit(f"{name} comes without its licence's text: look into {package['repository']}, and lay it into "
                     f"packaging/licences under the crate's name")
        for text in found or [LEFT_OUT[crate[0]].read_text()]:
            add(name, text)
    for name, found in standard_library():
        for text in found:
            add(name, text)
    add("musl", LEFT_OUT["musl"].read_text())
    for text, names in texts.values():
        print("\n" + "=" * 100)
        print(*dict.fromkeys(names), sep="\n")
        print("-" * 100 + "\n")
        print("\n".join(line.rstrip() for line in text.splitlines()))


def expression():
    own, crates = all_linked()
    known = packages()
    # The standard library's and musl's among them.
    expressions = {licence(known[crate]) for crate in crates} | {"MIT OR Apache-2.0", "MIT"}
    # In one order, so that the same choice in two orders is named once.
    choices = {" OR ".join(sorted(e.split(" OR "))) for e in expressions if " AND " not in e}
    choices |= {part for e in expressions if " AND " in e for part in e.replace("(", "").replace(")", "").split(" AND ")}
    first = licence(known[own])
    rest = sorted(choices - {first})
    print(" AND ".join([first] + [f"({choice})" if " OR " in choice else choice for choice in rest]))


def sbom(target):
    bom = json.load(sys.stdin)
    own, *crates = linked(target)
    known = packages()
    component = bom["metadata"]["component"]
    if (component["name"], "v" + component["version"]) != own:
        sys.exit(f"the list is of {component['name']} {component['version']}, not of {own}")
    # The tool names the folder that it worked in, and what it calls the targets of this crate.
    local = component["bom-ref"]
    component["bom-ref"] = component["purl"] = f"pkg:cargo/{own[0]}@{own[1][1:]}"
    del component["components"]
    linked_now = {c["bom-ref"]: c for c in bom["components"] if (c["name"], "v" + c["version"]) in crates}
    if len(linked_now) != len(crates):
        sys.exit(f"{len(crates)} crates are linked, {len(linked_now)} of them listed")
    # Cargo's way to name a crate is not every reader's.
    refs = {ref: c["purl"] for ref, c in linked_now.items()} | {local: component["purl"]}
    for ref, c in linked_now.items():
        c["bom-ref"] = refs[ref]
        c["licenses"] = [{"expression": licence(known[c["name"], "v" + c["version"]])}]
    depends = {refs[d["ref"]]: {refs[on] for on in d.get("dependsOn", []) if on in refs}
               for d in bom["dependencies"] if d["ref"] in refs}
    rust = output("rustc", "--version").split()[1]
    sysroot = output("rustc", "--print", "sysroot").strip()
    libc = Path(sysroot, "lib/rustlib", target, "lib/self-contained/libc.a").read_bytes()
    musl = re.search(rb"\0(1\.\d+\.\d+)\0", libc)[1].decode()
    for name, version, spdx, what in [
        ("rust-std", rust, "MIT OR Apache-2.0", "Rust's standard library, linked statically"),
        ("musl", musl, "MIT", "The C library, as Rust's standard library brings it, linked statically"),
    ]:
        purl = f"pkg:generic/{name}@{version}"
        linked_now[purl] = {"type": "library", "bom-ref": purl, "name": name, "version": version, "description": what,
                            "scope": "required", "licenses": [{"expression": spdx}], "purl": purl}
        depends[purl] = set()
        depends[component["purl"]].add(purl)
    depends["pkg:generic/rust-std@" + rust].add("pkg:generic/musl@" + musl)
    bom["components"] = sorted(linked_now.values(), key=lambda c: c["purl"])
    bom["dependencies"] = [{"ref": ref, "dependsOn": sorted(on)} for ref, on in sorted(depends.items())]
    json.dump(bom, sys.stdout, indent=2, ensure_ascii=False)
    print()


match sys.argv[1:]:
    case ["notices"]:
        notices()
    case ["licence"]:
        expression()
    case ["sbom", target]:
        sbom(target)
    case _:
        sys.exit(__doc__)
