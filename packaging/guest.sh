#!/bin/bash
# The whole on a machine of its own: a Debian 12 in QEMU (emulated, no KVM) installs the agent's .deb, enrolls with a receiver on this
# host, and protects /dev/vda, on which its / is. Power is cut in the middle of writes; the newest point is restored; the copy is
# booted by its own boot loader, and holds every file that was acknowledged before the point. Takes 3 minutes.
#
# The Debian root is fetched once, and kept in bench/out/install. packaging/guest-inside.sh is what runs in the machine. Machine and
# receiver run in a network and a space of processes of their own: the machine reaches this host's loopback as 10.0.2.2.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "guest: a Debian root and its own network need root: run it as root" >&2; exit 1; }
store=$PWD/bench/out/install
export GUEST_BEGAN=${GUEST_BEGAN:-$(date +%s)}
step() { echo "guest: $* (after $(($(date +%s) - GUEST_BEGAN)) s)"; }
fail() { echo "guest: $*" >&2; exit 1; }
. packaging/vm.sh
mkdir -p "$store"

# prepare makes what needs the network: packages, and the source's disk.
prepare() {
	step "build the packages; a Debian on a disk"
	export GO=${GO:-go}
	VERSION=1.0.0 ARCHES=$arch bash packaging/package.sh "$work/packages" >"$work/log" 2>&1 || { cat "$work/log"; fail "the packages can't be built"; }
	mkdir "$work/host" "$work/carry"
	bootable_root "$work/root"
	echo web1 >"$work/root/etc/hostname"
	mkdir -p "$work/root/var/log/journal" # the log is on the disk that is frozen
	echo 'root:guest' | chroot "$work/root" chpasswd
	chroot "$work/root" usermod --shell /bin/sh root
	disk "$work/root" "$work/source.img" 1024
	rm -rf --one-file-system "$work/root"
	local deb
	for deb in "$work"/packages/understudy{,-receiver}_*.deb; do dpkg -x "$deb" "$work/host"; done
}

on_host() { "$work/host/usr/bin/$@"; }
points() { on_host understudy points web1:/dev/vda --receiver 127.0.0.1:443 --pki "$work/ann" --json; }
crash_points() { points 2>/dev/null | grep -o '"class": *"crash"' | wc -l; }
newest() { points | grep -oE '"seq": *[0-9]+' | tr -dc '0-9\n' | sort -n | tail -1; }
acknowledged() { tr -d '\r' <"$console" | grep -aoE '^ACK [0-9]+ [0-9]+ [0-9a-f]{64}$'; }

# carried FILE… packs them as a disk that the machine reads with tar.
carried() {
	cp "$@" "$work/carry/"
	tar -c -C "$work/carry" -f "$work/carry.img" .
	truncate -s %1M "$work/carry.img"
}

# with_uuid UUID IMAGE boots a machine of that id from the image, with what is carried as its second disk.
with_uuid() {
	boot "$1" -uuid "$1" -nic user,model=virtio-net-pci -drive "file=$2,format=raw,if=virtio,cache=unsafe" \
		-drive "file=$work/carry.img,format=raw,if=virtio,readonly=on"
	login guest
	in_guest 30 'mkdir -p /run/test && tar -x -C /run/test -f /dev/vdb'
}

receiver() {
	step "a receiver from its package, a token"
	ip link set lo up
	on_host understudy pki init --dir "$work/ca" --site lab >/dev/null
	on_host understudy pki issue --dir "$work/ca" --name vault --role target --out "$work/vault" >/dev/null
	on_host understudy pki issue --dir "$work/ca" --name ann --role admin --out "$work/ann" >/dev/null
	on_host understudy-receiver run --dir "$work/copies" --pki "$work/vault" --ca "$work/ca" >"$work/receiver.log" 2>&1 &
	for _ in $(seq 50); do
		on_host understudy enroll-token --host web1 --receiver 127.0.0.1:443 --pki "$work/ann" >"$work/token" 2>"$work/log" && break
		sleep 0.2
	done
	[ -s "$work/token" ] || { cat "$work/receiver.log" "$work/log"; fail "no token"; }
}

# The machine's id: hypervisors give every machine its own, the clone of a machine too.
source_id=5a1c7a40-7d1e-4c53-9a44-0b9c1f6d2e01 replica_id=5a1c7a40-7d1e-4c53-9a44-0b9c1f6d2e02

protect() {
	step "the source boots"
	carried "$work"/packages/understudy{,-agent}_*_"$arch".deb packaging/guest-inside.sh "$work/token"
	with_uuid $source_id "$work/source.img"
	step "install, enroll, protect /dev/vda with / on it"
	in_guest 180 'bash /run/test/guest-inside.sh protect' || hung "failed inside"
	step "write, and take points"
	say 'bash /run/test/guest-inside.sh write'
	local before deadline=$((SECONDS + 90))
	await 30 '^ACK 5 '
	before=$(newest)
	until [ "$(newest)" -ge $((before + 5)) ]; do
		kill -0 "$machine" || hung "the machine has ended"
		[ $SECONDS -lt $deadline ] || { tail -n 20 "$work/receiver.log" >&2; hung "no points while it writes"; }
		sleep 0.5
	done
	step "cut the power in the middle of writes"
	before=$(acknowledged | wc -l)
	say ''
	await 10 '^ACK '
	cut_power
	[ "$(acknowledged | wc -l)" -gt "$before" ] || fail "nothing was written when the power was cut"
}

restore() {
	step "restore the newest point to a new disk"
	on_host understudy restore web1:/dev/vda "$work/replica.img" --receiver 127.0.0.1:443 --pki "$work/ann" --json >"$work/restored"
	grep -q '"class": *"crash"' "$work/restored" && grep -q '"proven": *true' "$work/restored" || { cat "$work/restored"; fail "not a proven point of class crash"; }
	local at
	at=$(date -d "$(sed -nE 's/.*"time": *"([^"]+)".*/\1/p' "$work/restored")" +%s%N)
	acknowledged | awk -v at="$at" '$3 + 0 < at + 0 { print $4 "  /srv/files/" $2 }' >"$work/expected"
	local all before
	all=$(acknowledged | wc -l) before=$(wc -l <"$work/expected")
	step "$before of $all files were acknowledged before the point"
	[ "$before" -ge 10 ] || fail "too few: the test proves nothing"
	[ "$before" -lt "$all" ] || fail "the point is not in the middle of writes: the test proves nothing"
	rm "$work/source.img"
}

replica() {
	step "boot the replica by its own boot loader, to a login"
	local last
	last=$(newest)
	rm "$work"/carry/*
	carried "$work/expected" packaging/guest-inside.sh
	with_uuid $replica_id "$work/replica.img"
	step "find the files"
	in_guest 120 'bash /run/test/guest-inside.sh check' || hung "failed inside"
	step "the agent in the replica is refused: it is another machine"
	in_guest 120 'bash /run/test/guest-inside.sh refused' || hung "failed inside"
	[ "$(newest)" = "$last" ] || fail "the replica changed its own copy: the newest point was $last, and is $(newest)"
	cut_power
}

if [ "${1:-}" = inside ]; then
	work=$2
	trap '[ -z "$machine" ] || kill -9 "$machine" 2>/dev/null; kill $(jobs -p) 2>/dev/null || true' EXIT
	for s in receiver protect restore replica; do "$s"; done
	exit
fi
work=$(mktemp -d "${TMPDIR:-/var/tmp}/understudy-guest-XXXXXX")
trap 'rm -rf --one-file-system "$work"' EXIT
prepare
unshare --net --pid --fork --kill-child --mount-proc bash packaging/guest.sh inside "$work"
step "all is well"
