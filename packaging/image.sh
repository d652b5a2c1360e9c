#!/bin/bash
# Makes the receiver's image: a raw disk with Debian 12 and the receiver's package, which boots from BIOS and UEFI, on virtio, NVMe and
# Xen. It holds no secret, and nobody can log in: it gets its identity from a volume (docs/PACKAGING.md, The receiver's image).
#
#   image.sh [FILE]     default: packaging/out/understudy-receiver-VERSION.raw
#
# The Debian root is fetched once, and kept in bench/out/install.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "image: a Debian root needs root: run it as root" >&2; exit 1; }
store=$PWD/bench/out/install
fail() { echo "image: $*" >&2; exit 1; }
. packaging/vm.sh
[ "$arch" = amd64 ] || fail "this makes an image for amd64, on amd64"
mkdir -p "$store"
work=$(mktemp -d "${TMPDIR:-/var/tmp}/understudy-image-XXXXXX")
trap 'rm -rf --one-file-system "$work"' EXIT
mib=286 # less than 300 MB: an image is to be small to import, and to boot

echo "image: build the package"
ARCHES=$arch bash packaging/package.sh "$work/packages" >"$work/log" 2>&1 || { cat "$work/log"; fail "the package can't be built"; }
deb=$(echo "$work"/packages/understudy-receiver_*.deb)
version=$(dpkg-deb -f "$deb" Version)
image=$(realpath -m "${1:-packaging/out/understudy-receiver-$version.raw}")
mkdir -p "$(dirname "$image")"

echo "image: a Debian without what a receiver does not need"
root=$work/root
# Drivers of what clouds and hypervisors give: disks, networks, the volume's file systems; and the link's congestion control.
drivers=(virtio_pci virtio_blk virtio_scsi virtio_net virtio-rng sd_mod sr_mod ata_piix ahci xen-blkfront xen-netfront ena ixgbevf hv_netvsc hv_storvsc
	gve vfat isofs nls_cp437 nls_ascii nls_iso8859-1 nls_utf8 tcp_bbr sch_fq autofs4)
bootable_root "$root"
cp "$deb" "$root/receiver.deb"
chroot "$root" dpkg -i /receiver.deb >"$work/log" 2>&1 || { cat "$work/log"; fail "dpkg"; }
rm "$root/receiver.deb"
chroot "$root" getent passwd understudy >/dev/null || fail "no user understudy"
modules=$(echo "$root"/lib/modules/*)
kernel=${modules##*/}
for driver in "${drivers[@]}"; do modprobe -d "$root" -S "$kernel" --show-depends "$driver" 2>/dev/null || true; done |
	awk '$1 == "insmod" { print $2 }' | sort -u | xargs -n 1 realpath >"$work/keep"
grep -q virtio_net "$work/keep" && grep -q /ena.ko "$work/keep" || fail "the drivers were not found"
find "$(realpath "$modules")/kernel" -name '*.ko' | grep -vxFf "$work/keep" | xargs rm
depmod -b "$root" "$kernel"
rm -rf "$root"/usr/share/{man,locale,info,bug,lintian} "$root"/var/lib/apt/lists/* "$root"/var/cache/{apt,debconf}/* "$root"/var/log/* "$root"/usr/share/doc/*/changelog*

install -D -m 755 packaging/image/setup.sh "$root/usr/lib/understudy/setup"
install -D -m 644 packaging/image/understudy-setup.service "$root/etc/systemd/system/understudy-setup.service"
# A cloud shows its operators what the console says; there is nothing else to look at.
install -d "$root/etc/systemd/system/understudy-receiver.service.d" "$root/etc/systemd/journald.conf.d"
printf '[Service]\nStandardOutput=journal+console\nStandardError=journal+console\n' >"$root/etc/systemd/system/understudy-receiver.service.d/console.conf"
printf '[Journal]\nSystemMaxUse=16M\n' >"$root/etc/systemd/journald.conf.d/image.conf"
systemctl --quiet --root="$root" enable understudy-setup understudy-receiver
systemctl --quiet --root="$root" mask getty@tty1.service serial-getty@ttyS0.service e2scrub_reap.service apt-daily.timer apt-daily-upgrade.timer

echo understudy-receiver >"$root/etc/hostname"
printf '%s' >"$root/etc/machine-id" # each machine that boots it makes its own
rm -f "$root"/var/lib/dbus/machine-id "$root"/var/lib/systemd/random-seed "$root"/etc/ssh/*key*
awk -F: '$2 != "*" && $2 !~ /^!/ { print $1; found = 1 } END { exit found }' "$root/etc/shadow" || fail "somebody could log in"
[ -z "$(find "$root"/etc/understudy \( -name '*.key' -o -name '*.crt' \))" ] || fail "a certificate is in the image"

disk "$root" "$image" $mib
[ "$(stat -c %s "$image")" -le 300000000 ] || fail "the image has more than 300 MB"
echo "image: $image: $(stat -c %s "$image") bytes, $(($(stat -c %b "$image") * 512)) of them allocated"
