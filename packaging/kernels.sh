#!/bin/bash
# Runs the tracker's tests on stock Debian kernels, each in a small emulated machine with two processors. What differs between
# kernels (the places of fields, the arguments of tracepoints, what the verifier takes) shows nowhere else.
#
#   kernels.sh [VERSION…]      default: 6.1 and 6.12; VERSION is how a cloud kernel's package begins, after linux-image-
#
# Kernels are fetched as Debian packages and unpacked, not installed; they are kept in bench/out/kernels.
set -euo pipefail
cd "$(dirname "$0")/.."
go=${GO:-go}
store=$PWD/bench/out/kernels
mkdir -p "$store"
work=$(mktemp -d)
qemu=
trap '[ -z "$qemu" ] || kill "$qemu" 2>/dev/null || true; rm -rf "$work"' EXIT

# newest VERSION prints the package of the newest kernel of that line, nothing if apt knows none.
newest() {
	apt-cache search --names-only "^linux-image-$1[.][0-9.-]*([+~][a-z0-9]+)?-cloud-amd64\$" | awk '{print $1}' | sort -V | tail -1
}

# fetch VERSION prints the folder of the newest kernel of that line.
fetch() {
	local package
	package=$(newest "$1")
	[ -n "$package" ] || { apt-get update -qq >&2; package=$(newest "$1"); }
	[ -n "$package" ] || { echo "kernels: apt has no cloud kernel $1" >&2; return 1; }
	if [ ! -e "$store/$package/boot" ]; then
		rm -rf "$store/$package"* "$store/$package.new"
		(cd "$store" && apt-get download -qq "$package" 2>/dev/null && dpkg -x "$package"_*.deb "$package.new" && rm -f "$package"_*.deb && mv "$package.new" "$package") ||
			{ echo "kernels: $package can't be fetched: run apt-get update" >&2; return 1; }
	fi
	echo "$store/$package"
}

# tool copies a command and what it links to into the guest's root.
tool() {
	local path lib
	path=$(PATH=$PATH:/usr/sbin:/sbin command -v "$1")
	cp "$path" "$work/root/bin/$1"
	for lib in $(ldd "$path" 2>/dev/null | grep -oE '/[^ )]+' || true); do
		mkdir -p "$work/root$(dirname "$lib")"
		cp -Ln "$lib" "$work/root$lib"
	done
}

# guest makes the root that all kernels share: a shell, the tools the tests call, the tests.
guest() {
	mkdir -p "$work"/root/{bin,proc,sys,dev,tmp,etc}
	ln -sfn bin "$work/root/sbin"
	local t
	for t in bash mount mkdir ls cat sh losetup blockdev addpart delpart fsfreeze mkfs.ext4 mkfs.xfs modprobe; do tool "$t"; done
	CGO_ENABLED=0 "$go" test -c -o "$work/root/ebpf.test" ./agent/capture/ebpf
	cat >"$work/root/init" <<'INIT'
#!/bin/bash
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm
mount -t tmpfs shm /dev/shm
mount -t tmpfs tmp /tmp
for m in loop xfs ext4 virtio_pci virtio_blk nvme; do modprobe -q $m; done
for n in 0 1 2 3 4 5 6 7; do [ -e /dev/loop$n ] || losetup -f >/dev/null; done
export HOME=/tmp UNDERSTUDY_TEST_DISKS="$(ls /dev/vda /dev/nvme0n1 2>/dev/null)"
/ebpf.test -test.v -test.timeout 900s
echo "ebpf.test ended with $?"
echo o >/proc/sysrq-trigger
while :; do read -t 60 _ </dev/zero; done
INIT
	chmod +x "$work/root/init"
}

# boot DIR runs the tests on one kernel.
boot() {
	local dir=$1 version root log mods
	version=$(ls "$dir/lib/modules")
	log=$store/$version.log
	root=$work/$version
	cp -r "$work/root" "$root"
	[ -e "$dir/lib/modules/$version/modules.dep" ] || depmod -b "$dir" "$version"
	mods=$root/lib/modules/$version
	mkdir -p "$mods"
	cp "$dir/lib/modules/$version"/modules.* "$mods/"
	for m in loop xfs ext4 virtio_pci virtio_blk nvme; do
		modprobe -d "$dir" -S "$version" --show-depends "$m" 2>/dev/null | awk '$1 == "insmod" {print $2}' || true
	done | sort -u | while read -r ko; do
		mkdir -p "$mods/$(dirname "${ko#*"/$version/"}")"
		cp "$ko" "$mods/${ko#*"/$version/"}"
	done
	(cd "$root" && find . | cpio -o -H newc --quiet) >"$root.cpio"
	truncate -s 64M "$work/vda" "$work/nvme"
	echo "kernels: $version"
	# Its own time limit: a guest that hangs must not hang the run. No network.
	timeout --foreground 1200 qemu-system-x86_64 -M q35 -cpu qemu64 -accel tcg,thread=multi -smp 2 -m 2048 -nodefaults -display none \
		-serial stdio -no-reboot -nic none -kernel "$dir/boot/vmlinuz-$version" -initrd "$root.cpio" \
		-append "console=ttyS0 panic=-1 quiet sysrq_always_enabled" \
		-drive file="$work/vda",format=raw,if=virtio,cache=unsafe \
		-drive file="$work/nvme",format=raw,if=none,id=n,cache=unsafe -device nvme,drive=n,serial=test \
		</dev/null >"$log" 2>&1 &
	qemu=$!
	wait "$qemu" || true
	qemu=
	if ! grep -q "ebpf.test ended with 0" "$log" || grep -qE '^ *--- SKIP' "$log"; then
		grep -vE '^=== ' "$log" | tail -60 >&2
		echo "kernels: the tests failed, were skipped or did not end on $version: $log" >&2
		return 1
	fi
	echo "kernels: $version: $(grep -cE '^ *--- PASS' "$log") passed"
}

guest
[ $# -gt 0 ] || set -- 6.1 6.12
failed=0
for version in "$@"; do
	dir=$(fetch "$version") && boot "$dir" || failed=1
done
exit $failed
