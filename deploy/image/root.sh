#!/bin/sh
# The image's file system, below DEST/root, and below DEST/own what belongs to its user: the program, the libraries that it
# names, the roots of TLS, and nothing that could run beside it. Libraries come from the Debian that this runs on, each with its
# licence and its line for scanners (/var/lib/dpkg/status.d, as distroless images have it).
#
# deploy/image/root.sh BINARY SBOM LICENSE DEST
set -eu
umask 022
binary=$1 sbom=$2 license=$3 root=$4/root own=$4/own

of() { # FILE: takes the package over that has this file
    package=$(dpkg-query -S "$1" 2>/dev/null || dpkg-query -S "${1#/usr}") || { echo "$1 is of no package" >&2; exit 1; }
    package=${package%%:*}
    mkdir -p "$root/var/lib/dpkg/status.d"
    dpkg-query -s "$package" >"$root/var/lib/dpkg/status.d/$package"
    install -D -m 0644 "/usr/share/doc/$package/copyright" "$root/usr/share/doc/$package/copyright"
}

install -D -m 0755 "$binary" "$root/usr/local/bin/tokenward"
install -D -m 0644 "$sbom" "$root/usr/share/doc/tokenward/tokenward.cdx.json"
install -D -m 0644 "$license" "$root/usr/share/doc/tokenward/LICENSE"

# The loader stands in the same list, by its path.
named=$(ldd "$binary")
libraries=$(printf '%s\n' "$named" | grep -o '/[^ ]*')
for library in $libraries; do
    install -D -m 0755 "$library" "$root$library"
    of "$(readlink -f "$library")"
done

install -D -m 0644 /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
of /usr/sbin/update-ca-certificates
install -D -m 0644 /etc/os-release "$root/etc/os-release"
echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
printf 'root:x:0:0:root:/nonexistent:/nonexistent\ntokenward:x:65532:65532:tokenward:/nonexistent:/nonexistent\n' >"$root/etc/passwd"
printf 'root:x:0:\ntokenward:x:65532:\n' >"$root/etc/group"

# Where configuration, secrets and the volumes of the default configuration are mounted.
mkdir -p "$root/etc/tokenward" "$root/run/secrets" "$root/var/lib" "$root/var/log"
mkdir -p "$own/run/tokenward" "$own/lib/tokenward" "$own/log/tokenward"
chmod 0700 "$own/lib/tokenward" "$own/log/tokenward"
