#!/bin/bash
# Makes the receiver's image and boots it, emulated: by BIOS with nothing but blank disks, it accepts agents in less than 30 s; after a
# power cut, by UEFI and without the volume, it is the same receiver; with no disk that is its own, it leaves all disks alone.
# Takes 2 minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "image-test: a Debian root and its own network need root: run it as root" >&2; exit 1; }
store=$PWD/bench/out/install
step() { echo "image-test: $*"; }
fail() { echo "image-test: $*" >&2; exit 1; }
. packaging/vm.sh

on_host() { "$work/host/usr/bin/$@"; }
token() { on_host understudy enroll-token --host "$1" --receiver 127.0.0.1:443 --pki "$work/ann" 2>"$work/why"; }
enroll() { token "$1" | on_host understudy-agent enroll --host "$1" --receiver 127.0.0.1:443 --pki "$work/$1" --token -; }
drive() { echo -drive "file=$work/$1,format=raw,if=virtio,cache=unsafe${2:-}"; }

# accepts BEGAN NAME waits until an agent of that name is enrolled; BEGAN is when the machine was started, in seconds.
accepts() {
	local began=$1 name=$2
	until token "$name" >"$work/token"; do
		kill -0 "$machine" 2>/dev/null || hung "the machine has ended"
		[ $(($(date +%s) - began)) -lt 120 ] || hung "nobody is accepted: $(cat "$work/why")"
		sleep 0.2
	done
	on_host understudy-agent enroll --host "$name" --receiver 127.0.0.1:443 --pki "$work/$name" --token - <"$work/token" >/dev/null || hung "no agent is enrolled"
}

# machine_with ARGUMENT… boots the image.
machine_with() {
	boot receiver -nic user,model=virtio-net-pci,hostfwd=tcp:127.0.0.1:443-:443,hostfwd=udp:127.0.0.1:443-:443 "$@"
}

identity() {
	on_host understudy pki init --dir "$work/ca" --site lab >/dev/null
	on_host understudy pki issue --dir "$work/ca" --name vault --role target --out "$work/vault" >/dev/null
	on_host understudy pki issue --dir "$work/ca" --name ann --role admin --out "$work/ann" >/dev/null
	echo 'ca = "/etc/understudy/ca"' >"$work/receiver.toml"
	truncate -s 8M "$work/volume"
	mformat -i "$work/volume" -v UNDERSTUDY -T 16384 -h 16 -s 32 ::
	mmd -i "$work/volume" ::/pki ::/ca
	mcopy -i "$work/volume" "$work/vault"/* ::/pki/
	mcopy -i "$work/volume" "$work/ca"/* ::/ca/
	mcopy -i "$work/volume" "$work/receiver.toml" ::/
}

# others makes disks that look blank to blkid, and are not: one has something at the beginning, one at the end only.
others() {
	truncate -s 128M "$work/first" "$work/last"
	echo precious | dd of="$work/first" bs=1 seek=$((9 << 20)) conv=notrunc status=none
	echo precious | dd of="$work/last" bs=1 seek=$((120 << 20)) conv=notrunc status=none
	sha256sum "$work/first" "$work/last" >"$work/others"
}
unchanged() { sha256sum --quiet -c "$work/others" || fail "a disk that was not blank was changed"; }

first() {
	step "first boot, BIOS, virtio: a blank disk, two that are not, the volume"
	truncate -s 1G "$work/data"
	local began took
	began=$(date +%s%N)
	machine_with $(drive receiver.raw) $(drive first) $(drive data) $(drive last) $(drive volume ,readonly=on)
	accepts $((began / 1000000000)) web1
	took=$((($(date +%s%N) - began) / 1000000))
	step "an agent was enrolled $took ms after the start of QEMU"
	[ $took -lt 30000 ] || hung "that is more than 30 s"
	cut_power
	unchanged
	[ "$(blkid -p -s LABEL -o value "$work/data")" = understudy-data ] || fail "the blank disk is not the disk for the copies"
}

again() {
	step "after a power cut, UEFI, NVMe, no volume, the disk for the copies grown: the same receiver"
	truncate -s 2G "$work/data"
	local began
	began=$(date +%s)
	machine_with -bios /usr/share/ovmf/OVMF.fd -drive "file=$work/receiver.raw,format=raw,if=none,id=n0,cache=unsafe" -device nvme,drive=n0,serial=n0 \
		-drive "file=$work/data,format=raw,if=none,id=n1,cache=unsafe" -device nvme,drive=n1,serial=n1
	accepts "$began" web2
	step "an agent was enrolled $(($(date +%s) - began)) s after the start of QEMU"
	! enroll web1 >/dev/null 2>&1 || fail "web1 was enrolled twice"
	cut_power
	[ "$(dumpe2fs -h "$work/data" 2>/dev/null | awk '$1 == "Block" && $2 == "count:" { print $3 }')" = $((2 << 18)) ] || fail "the disk for the copies has not grown"
}

nothing() {
	step "no disk of its own: it leaves the others alone, and says why"
	machine_with $(drive receiver.raw) $(drive first) $(drive last)
	await 60 'none is blank: attach one'
	! token web3 >/dev/null || fail "it accepts agents"
	cut_power
	unchanged
}

if [ "${1:-}" = inside ]; then
	work=$2
	trap '[ -z "$machine" ] || kill -9 "$machine" 2>/dev/null || true' EXIT
	ip link set lo up
	for s in identity others first again nothing; do "$s"; done
	exit
fi
work=$(mktemp -d "${TMPDIR:-/var/tmp}/understudy-image-XXXXXX")
trap 'rm -rf --one-file-system "$work"' EXIT
export VERSION=1.0.0
bash packaging/image.sh "$work/receiver.raw"
ARCHES=$arch bash packaging/package.sh "$work/packages" >"$work/log" 2>&1 || { cat "$work/log"; fail "the packages can't be built"; }
for deb in "$work"/packages/understudy{,-agent}_*.deb; do dpkg -x "$deb" "$work/host"; done
unshare --net --pid --fork --kill-child --mount-proc bash packaging/image-test.sh inside "$work"
step "all is well"
