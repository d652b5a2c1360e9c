#!/bin/bash
# Installs the packages for real: the .deb in a Debian under its own systemd (a container), where an agent protects a loop disk and
# is killed, upgraded under load, removed and purged; the .rpm in a root of its own. Builds the packages first, once more in another
# folder, where they must be the same bytes. Takes 3 minutes; packaging/install-guest.sh is what runs inside.
#
#   install.sh [STEP…]     default: all of them
#
# The Debian root is fetched once, and kept in bench/out/install.
set -euo pipefail
cd "$(dirname "$0")/.."
go=${GO:-go}
export GO=$go
[ "$(id -u)" = 0 ] || { echo "install: containers, mounts and BPF need root: run it as root" >&2; exit 1; }
store=$PWD/bench/out/install
mkdir -p "$store"
work=$(mktemp -d "${TMPDIR:-/var/tmp}/understudy-install-XXXXXX")
nspawn= init= loops=()
cleanup() {
	local status=$? loop
	if [ -n "$init" ]; then
		nsenter -t "$init" -a bash /test/install-guest.sh cleanup >/dev/null 2>&1 || true
		kill -9 "$init" 2>/dev/null || true
	fi
	[ -z "$nspawn" ] || wait "$nspawn" 2>/dev/null || true
	for loop in "${loops[@]}"; do losetup -d "$loop" || true; done
	umount "$work/rpm/proc" 2>/dev/null || true
	rm -rf --one-file-system "$work"
	exit $status
}
trap cleanup EXIT
step() { echo "install: $*"; }
fail() { echo "install: $*" >&2; exit 1; }
. packaging/vm.sh

# build FOLDER VERSION builds the packages of this processor from here.
build() { VERSION=$2 ARCHES=$arch bash packaging/package.sh "$work/$1" >"$work/log" 2>&1 || { cat "$work/log"; fail "the packages can't be built"; }; }

packages() {
	step "build the packages, and the next version"
	build one 1.0.0
	build two 1.0.1
	(cd "$work/one" && sha256sum --quiet -c SHA256SUMS)
}

reproducible() {
	step "build them in another folder, from scratch: the same bytes?"
	mkdir "$work/elsewhere"
	tar -c --exclude=./bin --exclude=./bench/out --exclude=./packaging/out . | tar -x -C "$work/elsewhere"
	(cd "$work/elsewhere" && umask 077 && TZ=Asia/Tokyo FRESH=1 VERSION=1.0.0 ARCHES=$arch bash packaging/package.sh "$work/again" >"$work/log" 2>&1) || { cat "$work/log"; fail "it does not build there"; }
	diff "$work/one/SHA256SUMS" "$work/again/SHA256SUMS" || fail "another folder gives other bytes"
	rm -rf "$work/elsewhere" "$work/again"
}

# root extracts a Debian 12 into $work/NAME.
root() {
	local tar
	tar=$(debian_root bookworm systemd,systemd-sysv,e2fsprogs,fio,procps)
	mkdir "$work/$1"
	tar -x -C "$work/$1" -f "$tar"
}

units() {
	step "units: verified, and as hard as they claim to be"
	root units
	dpkg --root="$work/units" --force-script-chrootless --unpack "$work"/one/understudy-*.deb >/dev/null
	local unit most
	for unit in agent:65 receiver:40; do
		most=${unit#*:} unit=understudy-${unit%:*}.service
		systemd-analyze verify --root="$work/units" --man=no "$unit" 2>&1 | grep -F "$unit" && fail "$unit has mistakes"
		systemd-analyze security --offline=true --root="$work/units" --threshold=$most --no-pager "$unit" | tail -1
	done
	rm -rf "$work/units"
}

debian() {
	step "start a Debian"
	root debian
	mkdir "$work/debian/test"
	cp "$work"/one/*.deb "$work"/two/*.deb packaging/install-guest.sh "$work/debian/test/"
	local disk
	for disk in data other; do
		truncate -s 400M "$work/$disk.img"
		loops+=("$(losetup --find --show "$work/$disk.img")")
	done
	printf 'data=%s\nother=%s\n' "${loops[@]}" >"$work/debian/test/disks"
	SYSTEMD_NSPAWN_API_VFS_WRITABLE=yes systemd-nspawn --quiet --directory="$work/debian" --register=no --keep-unit --private-network \
		--capability=all --system-call-filter="bpf perf_event_open" --bind="${loops[0]}" --bind="${loops[1]}" --bind=/sys/fs/bpf --boot \
		</dev/null >"$work/console" 2>&1 &
	nspawn=$!
	for _ in $(seq 300); do
		init=$(cat /proc/$nspawn/task/$nspawn/children 2>/dev/null | tr -d ' ') || true
		[ -z "$init" ] || ! nsenter -t "$init" -a systemctl is-system-running 2>/dev/null | grep -qE 'running|degraded' || break
		sleep 0.1
	done
	nsenter -t "$init" -a systemctl is-system-running | grep -qx running || { cat "$work/console"; fail "the Debian does not come up"; }
	nsenter -t "$init" -a bash /test/install-guest.sh 2>&1 | tee "$work/inside" && return
	nsenter -t "$init" -a journalctl --no-pager -n 60 -u 'understudy-*'
	tail -n 5 "$work/inside" >&2
	fail "failed inside"
}

rpms() {
	step "rpm: install, verify, upgrade, erase"
	root rpm
	local r=(rpm --root "$work/rpm" --nodeps) names=(understudy understudy-agent understudy-receiver)
	rpm --root "$work/rpm" --initdb
	mount -t proc proc "$work/rpm/proc"
	local v dir
	for v in one two; do mkdir "$work/rpm/$v" && cp "$work/$v"/*.rpm "$work/rpm/$v/"; done
	"${r[@]}" -i "$work"/rpm/one/*.rpm
	"${r[@]}" -V "${names[@]}" || fail "rpm -V finds changes right after the install"
	[ "$(chroot "$work/rpm" understudy-agent --version)" = "understudy-agent version 1.0.0" ] || fail "not the version that was installed"
	chroot "$work/rpm" getent passwd understudy >/dev/null || fail "no user understudy"
	[ "$(stat -c %U:%a "$work/rpm/etc/understudy/pki")" != root:755 ] && [ -e "$work/rpm/etc/understudy/pki" ] || fail "no folder for certificates"
	[ "$(rpm --root "$work/rpm" -qc understudy-agent)" = /etc/understudy/agent.toml ] || fail "agent.toml is no configuration file"
	ln -s /usr/lib/systemd/system/understudy-agent.service "$work/rpm/etc/systemd/system/multi-user.target.wants/"
	echo '# mine' >>"$work/rpm/etc/understudy/agent.toml"
	"${r[@]}" -U "$work"/rpm/two/*.rpm
	[ "$(chroot "$work/rpm" understudy-agent --version)" = "understudy-agent version 1.0.1" ] || fail "not the version that was upgraded to"
	grep -q '^# mine' "$work/rpm/etc/understudy/agent.toml" || fail "an upgrade lost the configuration"
	[ -L "$work/rpm/etc/systemd/system/multi-user.target.wants/understudy-agent.service" ] || fail "an upgrade disabled the agent"
	"${r[@]}" -e "${names[@]}"
	for dir in usr/bin/understudy-agent usr/bin/understudy usr/share/understudy usr/lib/systemd/system/understudy-receiver.service etc/systemd/system/multi-user.target.wants/understudy-agent.service; do
		[ ! -e "$work/rpm/$dir" ] && [ ! -L "$work/rpm/$dir" ] || fail "/$dir is left"
	done
	[ -e "$work/rpm/etc/understudy/agent.toml.rpmsave" ] || fail "a changed configuration is gone"
}

[ $# -gt 0 ] || set -- reproducible units debian rpms
packages
for s in "$@"; do "$s"; done
step "all is well"
