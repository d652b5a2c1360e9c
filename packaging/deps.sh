#!/bin/bash
# Installs what building, testing and the demo need on a Debian or Ubuntu machine, and says so. What is there already is left
# alone: on a machine that has everything it does nothing, and needs neither the network nor root.
set -euo pipefail

# command: package that brings it
needs=(
	gcc:gcc                   # the race detector of go test
	git:git                   # the source
	losetup:mount             # loop disks
	fsfreeze:util-linux       # frozen copies, as a yardstick for ours
	flock:util-linux
	mkfs.ext4:e2fsprogs
	e2fsck:e2fsprogs
	mkfs.xfs:xfsprogs
	xfs_repair:xfsprogs
	mkfs.btrfs:btrfs-progs
	sqlite3:sqlite3           # the demo's database
	fio:fio                   # make bench
	ps:procps
	qemu-system-x86_64:qemu-system-x86 # make kernels
	cpio:cpio
	linux.uml:user-mode-linux # guests whose root may freeze, and that have LVM and md
	lvm:lvm2
	dmsetup:dmsetup
	mdadm:mdadm
	mmdebstrap:mmdebstrap     # make install-test: the packages in a Debian,
	systemd-nspawn:systemd-container # under its own systemd,
	systemd-analyze:systemd   # their units,
	rpm:rpm                   # and a root for the other kind
	sfdisk:fdisk              # make guest-test, image: disks that boot
	grub-mkimage:grub-common
	mformat:mtools
	ip:iproute2               # a network of its own for the machines
	modprobe:kmod             # the loop module, where the kernel does not have it built in
)
packages=()
for need in "${needs[@]}"; do
	if ! PATH=$PATH:/usr/sbin:/sbin command -v "${need%%:*}" >/dev/null; then packages+=("${need#*:}"); fi
done
if [ ! -e /usr/include/stdlib.h ]; then packages+=(libc6-dev); fi
if [ ! -e /usr/lib/grub/i386-pc/boot.img ]; then packages+=(grub-pc-bin); fi
if [ ! -e /usr/lib/grub/x86_64-efi/moddep.lst ]; then packages+=(grub-efi-amd64-bin); fi
if [ ! -e /usr/share/ovmf/OVMF.fd ]; then packages+=(ovmf); fi
if [ ! -e /etc/ssl/certs/ca-certificates.crt ]; then packages+=(ca-certificates); fi

# Go 1.21 and later fetch the toolchain that go.mod asks for through the module proxy (GOTOOLCHAIN=auto), so that is all that
# has to be here.
go_found() {
	local go minor
	for go in "$(command -v go || true)" /usr/local/go/bin/go $(ls -d /usr/lib/go-1.*/bin/go 2>/dev/null | sort -rV); do
		[ -n "$go" ] && [ -x "$go" ] || continue
		minor=$(GOTOOLCHAIN=local "$go" env GOVERSION | sed -nE 's/^go1\.([0-9]+).*/\1/p')
		if [ "${minor:-0}" -ge 21 ]; then return 0; fi
	done
	return 1
}
apt_install() {
	if [ "$(id -u)" != 0 ]; then
		echo "deps: missing: $*; run as root: apt-get install $*" >&2
		exit 1
	fi
	echo "deps: installing $*"
	if [ -z "${updated:-}" ]; then apt-get update -qq; updated=1; fi
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends -o Dpkg::Options::=--force-confold "$@" >/dev/null
}

# The packages of database servers make a cluster, start a service and enable it when they are installed. The tests need the
# programs alone.
install_servers() {
	local policy=/usr/sbin/policy-rc.d cluster=/etc/postgresql-common/createcluster.conf kept="" status=0 service
	if [ "$(id -u)" = 0 ]; then
		if [ -e $policy ]; then kept=$(mktemp) && cp -p $policy "$kept"; fi
		printf '#!/bin/sh\nexit 101\n' >$policy && chmod 755 $policy
		if [ ! -e $cluster ]; then mkdir -p ${cluster%/*} && echo "create_main_cluster = false" >$cluster; fi
	fi
	(apt_install "$@") || status=$? # in a shell of its own: its exit must not skip what follows
	if [ -n "$kept" ]; then mv "$kept" $policy; elif [ "$(id -u)" = 0 ]; then rm -f $policy; fi
	if [ $status != 0 ]; then exit $status; fi
	if [ -d /run/systemd/system ]; then
		for service in "$@"; do systemctl disable --quiet "${service%-server}" 2>/dev/null || true; done
	fi
}

servers=()
if ! compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null; then servers+=(postgresql); fi
if [ ! -x /usr/sbin/mariadbd ] || ! command -v mariadb >/dev/null; then
	if apt-cache show mariadb-server-core >/dev/null 2>&1; then
		packages+=(mariadb-server-core mariadb-client-core) # without a service
	else
		servers+=(mariadb-server)
	fi
fi
if [ ${#servers[@]} -gt 0 ]; then install_servers "${servers[@]}"; fi

if [ ${#packages[@]} -gt 0 ]; then apt_install $(printf '%s\n' "${packages[@]}" | sort -u); fi

# The package of Prometheus starts a server when it is installed. The tests of the alert rules need one program of it.
fetch_promtool() {
	local folder
	if [ "$(id -u)" != 0 ]; then
		echo "deps: missing: promtool; run as root: make deps" >&2
		exit 1
	fi
	echo "deps: fetching promtool"
	if [ -z "${updated:-}" ]; then apt-get update -qq; updated=1; fi
	folder=$(mktemp -d)
	(cd "$folder" && apt-get download -qq -o APT::Sandbox::User=root prometheus && dpkg -x prometheus_*.deb . && install -m 755 usr/bin/promtool /usr/local/bin/)
	rm -rf "$folder"
}
if ! command -v promtool >/dev/null; then fetch_promtool; fi

if ! go_found; then
	apt-get update -qq && updated=1
	go=$(apt-cache --names-only search '^golang-1\.[0-9]+-go$' | awk '{print $1}' | sort -V | tail -1)
	minor=${go#golang-1.}
	minor=${minor%-go}
	if [ "${minor:-0}" -lt 21 ] && grep -q '^VERSION_CODENAME=bookworm' /etc/os-release; then
		echo "deps: Debian 12 itself has no Go of 1.21 or later: adding bookworm-backports to apt's sources"
		mirror=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME)' | awk '$2 == "bookworm" { print $1; exit }')
		echo "deb ${mirror:?no mirror of bookworm in the sources of apt} bookworm-backports main" >/etc/apt/sources.list.d/bookworm-backports.list
		apt-get update -qq
		go=$(apt-cache --names-only search '^golang-1\.[0-9]+-go$' | awk '{print $1}' | sort -V | tail -1)
	fi
	[ -n "$go" ] && apt_install "$go"
fi
if ! go_found; then
	echo "deps: no Go of 1.21 or later is to be had from apt; install Go 1.26 from https://go.dev/dl/ into /usr/local/go" >&2
	exit 1
fi
if [ ! -e /dev/loop-control ] && [ "$(id -u)" = 0 ]; then modprobe loop; fi
if [ ! -r /sys/kernel/btf/vmlinux ]; then
	echo "deps: this kernel has no BTF (/sys/kernel/btf/vmlinux): disks can't be tracked here; take a kernel of Debian 12, Ubuntu 22.04 or later" >&2
	exit 1
fi
echo "deps: everything is here"
