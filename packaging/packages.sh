#!/usr/bin/env bash
# Packs a built agent as deb and rpm.
#
#   [PACKAGES=deb] packaging/packages.sh BINARY ARCH VERSION OUT [COMPLETIONS]
#
# ARCH is x86_64 or aarch64. COMPLETIONS is a binary that runs here and prints the completions; BINARY where that is left
# out. PACKAGES names one of deb and rpm where only that is wanted. Needs dpkg-deb, rpmbuild of Debian's package rpm, and Cargo
# with the crates' sources, from which the licences come. The same bytes everywhere for the same SOURCE_DATE_EPOCH.
set -euo pipefail
umask 022

die() {
    echo "$*" >&2
    exit 1
}

(( $# == 4 || $# == 5 )) || die "usage: $0 BINARY ARCH VERSION OUT [COMPLETIONS]"
binary=$(realpath "$1") arch=$2 version=$3 out=$(realpath "$4") speaks=$(realpath "${5:-$1}")
cd "$(dirname "$0")/.."
: "${SOURCE_DATE_EPOCH:?is not set: the time in seconds that all files in the packages get}"
export SOURCE_DATE_EPOCH
case $arch in
    x86_64) deb_arch=amd64 ;;
    aarch64) deb_arch=arm64 ;;
    *) die "no such architecture here: $arch; x86_64, aarch64" ;;
esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# What the binary contains beside the agent asks for its notices to come along.
packaging/third-party.py notices >"$work/THIRD-PARTY"

# lay_out TREE ZSH: what both packages have; zsh's completions have different places.
lay_out() {
    local tree=$1 zsh=$2 page
    put() { install -D -m "$1" "$2" "$tree/$3"; }
    complete() {
        "$speaks" completions "$1" >"$work/completions"
        put 0644 "$work/completions" "$2"
    }
    put 0755 "$binary" usr/bin/node-agent
    put 0644 systemd/node-agent.service usr/lib/systemd/system/node-agent.service
    put 0644 systemd/node-agent-mount.service usr/lib/systemd/system/node-agent-mount.service
    put 0644 systemd/node-agent-mounted.target usr/lib/systemd/system/node-agent-mounted.target
    put 0644 systemd/node-agent.preset usr/lib/systemd/system-preset/50-node-agent.preset
    # No configuration: where there is one, the service starts.
    install -d -m 0700 "$tree/etc/node-agent"
    put 0644 tests/ec2-sim/src/bin/demo/config.toml usr/share/doc/node-agent/examples/config.toml
    put 0644 systemd/example-application.service usr/share/doc/node-agent/examples/example-application.service
    for page in packaging/man/*.1; do
        gzip --best --no-name <"$page" >"$work/page"
        put 0644 "$work/page" "usr/share/man/man1/${page##*/}.gz"
    done
    complete bash usr/share/bash-completion/completions/node-agent
    complete zsh "$zsh/_node-agent"
    complete fish usr/share/fish/vendor_completions.d/node-agent.fish
}

deb() {
    local tree=$work/deb name=node-agent_${version}-1_$deb_arch.deb
    lay_out "$tree" usr/share/zsh/vendor-completions
    put 0644 packaging/deb/copyright usr/share/doc/node-agent/copyright
    gzip --best --no-name <"$work/THIRD-PARTY" >"$work/third-party"
    put 0644 "$work/third-party" usr/share/doc/node-agent/THIRD-PARTY.gz
    gzip --best --no-name <CHANGELOG.md >"$work/changelog"
    put 0644 "$work/changelog" usr/share/doc/node-agent/changelog.gz
    # Debian policy 12.7: the package's own, in this form.
    printf '%s\n' "node-agent ($version-1) unstable; urgency=medium" '' \
        '  * What has changed in node-agent is in changelog.gz.' '' \
        " -- $(sed -n 's/^Maintainer: //p' packaging/deb/control)  $(LC_ALL=C date --utc --date "@$SOURCE_DATE_EPOCH" -R)" |
        gzip --best --no-name >"$work/changelog"
    put 0644 "$work/changelog" usr/share/doc/node-agent/changelog.Debian.gz
    local size
    # Debian policy 5.6.20: in KiB, each file rounded up.
    size=$(find "$tree" -type f -printf '%s\n' | awk '{ kib += int(($1 + 1023) / 1024) } END { print kib }')
    install -d -m 0755 "$tree/DEBIAN"
    sed -e "s/@VERSION@/$version-1/; s/@ARCH@/$deb_arch/; s/@SIZE@/$size/" packaging/deb/control >"$tree/DEBIAN/control"
    (cd "$tree" && find etc usr -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum) >"$tree/DEBIAN/md5sums"
    install -m 0755 packaging/deb/{postinst,prerm,postrm} "$tree/DEBIAN"
    # xz: zstd, a newer default, is not read by Debian 11. One thread: more of them cut the data elsewhere.
    DPKG_DEB_THREADS_MAX=1 dpkg-deb --root-owner-group -Zxz --build "$tree" "$out/$name" >/dev/null
    echo "$out/$name"
}

rpm() {
    local tree=$work/rpm name=node-agent-$version-1.$arch.rpm
    lay_out "$tree" usr/share/zsh/site-functions
    put 0644 LICENSE usr/share/licenses/node-agent/LICENSE
    put 0644 "$work/THIRD-PARTY" usr/share/licenses/node-agent/THIRD-PARTY
    rpmbuild -bb --quiet --target "$arch-linux" \
        --define "_topdir $work/rpmbuild" --define "_dbpath $work/rpmdb" --define "_rpmdir $work/built" \
        --define "version $version" --define "tree $tree" --define "scripts $PWD/packaging/rpm" \
        --define "licence $(packaging/third-party.py licence)" \
        packaging/rpm/node-agent.spec >"$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
    cp "$work/built/$arch/$name" "$out/$name"
    echo "$out/$name"
}

for package in ${PACKAGES:-deb rpm}; do "$package"; done
