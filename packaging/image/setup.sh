#!/bin/sh
# At each start of the receiver's image, before the receiver: finds the disk for the copies, and takes the receiver's identity from the
# volume with the configuration, if there is one (docs/PACKAGING.md, The receiver's image).
set -eu
data=/var/lib/understudy volume=/run/understudy-volume
say() { echo "understudy-setup: $*"; }
fail() { say "$*"; exit 1; }

# all_zero DISK OFFSET: 16 MiB from there, in MiB.
all_zero() { cmp -s -i $(($2 * 1048576)):0 -n 16777216 "$1" /dev/zero; }

# blank tells whether there is nothing on a disk that anybody could want: no partition, nothing that blkid knows, nothing but
# zeroes at both ends.
blank() {
	local known=0
	[ "$(lsblk -no NAME "$1" | wc -l)" = 1 ] && [ "$(lsblk -dno RO "$1" | tr -d ' ')" = 0 ] || return 1
	blkid -p "$1" >/dev/null 2>&1 || known=$?
	[ $known = 2 ] && all_zero "$1" 0 && all_zero "$1" $(($(blockdev --getsize64 "$1") / 1048576 - 16))
}

# format finds the one blank disk and makes it the disk for the copies.
format() {
	local disk found=""
	for disk in $(lsblk -dnpo NAME,TYPE | awk '$2 == "disk" { print $1 }'); do
		if [ "$(blockdev --getsize64 "$disk")" -lt 67108864 ] || ! blank "$disk"; then continue; fi
		[ -z "$found" ] || fail "no disk is labelled understudy-data, and two are blank: $found and $disk. Attach one"
		found=$disk
	done
	[ -n "$found" ] || fail "no disk is labelled understudy-data, and none is blank: attach one. Disks that hold anything are left alone"
	say "$found is blank: it becomes understudy-data"
	mkfs.ext4 -q -L understudy-data "$found"
}

# take NAME copies a folder from the volume, unless there is one. The receiver goes on with it: it renews its certificate, and keeps
# what it has enrolled beside the CA.
take() {
	if [ -e "$data/etc/$1" ] || [ ! -d "$volume/$1" ]; then return; fi
	rm -rf "$data/etc/$1.new"
	mkdir "$data/etc/$1.new"
	cp "$volume/$1"/* "$data/etc/$1.new/"
	chmod 600 "$data/etc/$1.new"/*
	chmod 700 "$data/etc/$1.new"
	chown -R understudy:understudy "$data/etc/$1.new"
	sync
	mv "$data/etc/$1.new" "$data/etc/$1"
	say "$1 is taken from the volume"
}

udevadm settle
disk=$(blkid -c /dev/null -L understudy-data) || { format && disk=$(blkid -c /dev/null -L understudy-data); }
fsck.ext4 -p "$disk" >/dev/null || [ $? -le 1 ] || fail "$disk is damaged: e2fsck has to be run on it elsewhere"
mkdir -p $data
mount -o noatime,nodev,nosuid,noexec "$disk" $data
resize2fs "$disk" >/dev/null 2>&1 || say "$disk could not be grown to its whole size"
mkdir -p $data/etc
if config=$(blkid -c /dev/null -L UNDERSTUDY); then
	mkdir -p $volume
	mount -o ro,nodev,nosuid,noexec "$config" $volume
	if [ -e $volume/receiver.toml ]; then
		cp $volume/receiver.toml $data/etc/receiver.new
		chmod 644 $data/etc/receiver.new
		sync
		mv $data/etc/receiver.new $data/etc/receiver.toml
	fi
	take pki
	take ca
	umount $volume
fi
[ -e $data/etc/pki/host.key ] || fail "no certificate: attach a volume labelled UNDERSTUDY with pki/ca.crt, pki/host.crt and pki/host.key"
[ -e $data/etc/receiver.toml ] || cp /etc/understudy/receiver.toml $data/etc/
mount --bind $data/etc /etc/understudy
