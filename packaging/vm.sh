# What install.sh, guest.sh and image.sh share: a Debian root, a disk that boots, a machine that boots it. To be sourced, with
# $store (what is kept from run to run) and $work (what is not) set, and with a function fail.

arch=$(dpkg --print-architecture)

# debian_root NAME PACKAGES OPTION… prints the path of a tar with a Debian 12 that has the packages (a list with commas), and fetches
# it unless it is in the store. Options are mmdebstrap's.
debian_root() {
	local tar=$store/$1-$arch.tar mirror
	if [ ! -e "$tar" ]; then
		mirror=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME)' | awk '$2 == "bookworm" { print $1; exit }')
		mmdebstrap --quiet --variant=minbase --include="$2" "${@:3}" bookworm "$tar.new.tar" ${mirror:+"$mirror"} >&2 && mv "$tar.new.tar" "$tar" || return
	fi
	echo "$tar"
}

# bootable_root FOLDER extracts a Debian 12 that can be made a disk, without documentation and translations. Its network is DHCP's,
# its initramfs takes only what it takes to find / on virtio, NVMe and Xen.
bootable_root() {
	local tar
	tar=$(debian_root bootable systemd,systemd-sysv,udev,dbus,linux-image-cloud-amd64,initramfs-tools,e2fsprogs,util-linux,kmod,procps,iproute2 \
		--dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
		--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright')
	mkdir "$1"
	tar -x -C "$1" -f "$tar"
	printf '[Match]\nName=e*\n[Network]\nDHCP=yes\n' >"$1/etc/systemd/network/all.network"
	systemctl --quiet --root="$1" enable systemd-networkd
	sed -i 's/^MODULES=.*/MODULES=list/' "$1/etc/initramfs-tools/initramfs.conf"
	printf '%s\n' virtio_pci virtio_blk virtio_scsi sd_mod xen-blkfront >>"$1/etc/initramfs-tools/modules"
	chroot "$1" update-initramfs -u >"$work/log" 2>&1 || { cat "$work/log"; fail "no initramfs"; }
}

# disk ROOT IMAGE MIB writes a folder as a disk of that size that boots from BIOS and from UEFI: GPT, GRUB, an ext4. No loop device
# and no mount is needed: GRUB's parts are put where grub-install would put them.
disk() {
	local root=$1 image=$2 mib=$3 uuid core=2048 grub=/usr/lib/grub modules="part_gpt ext2 normal linux search search_fs_uuid"
	rm -f "$image" && truncate -s "${mib}M" "$image"
	# 1 MiB for GRUB on a BIOS, 4 MiB for UEFI, the rest is /.
	printf 'label: gpt\nstart=%s, size=2048, type=21686148-6449-6E6F-744E-656564454649\nsize=8192, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B\ntype=0FC63DAF-8483-4772-8E79-3D69D8477DE4\n' $core |
		sfdisk --quiet "$image"
	uuid=$(sfdisk --part-uuid "$image" 3 | tr A-F a-f)
	echo "PARTUUID=$uuid / ext4 noatime 0 1" >"$root/etc/fstab"
	mkdir -p "$root/boot/grub"
	printf 'set timeout=0\nlinux /vmlinuz root=PARTUUID=%s ro console=tty0 console=ttyS0 panic=30 quiet\ninitrd /initrd.img\nboot\n' "$uuid" >"$root/boot/grub/grub.cfg"
	local start=12288
	local bytes=$(((mib * 2048 - start - 2048) * 512)) # what a GPT needs at the end is much less than 1 MiB
	mke2fs -q -t ext4 -m 0 -L root -d "$root" -E offset=$((start * 512)),nodiscard "$image" $((bytes / 1024))k
	local id
	id=$(blkid -p -O $((start * 512)) -s UUID -o value "$image")
	printf 'search --no-floppy --fs-uuid --set=root %s\nset prefix=($root)/boot/grub\nconfigfile /boot/grub/grub.cfg\n' "$id" >"$work/grub.cfg"
	# BIOS: the boot sector names the sector where the core begins, and the core's first that of its second.
	grub-mkimage -O i386-pc -d $grub/i386-pc -c "$work/grub.cfg" -p /boot/grub -o "$work/core.img" biosdisk configfile $modules
	[ "$(stat -c %s "$work/core.img")" -le 1048576 ] || fail "GRUB's core has more than 1 MiB"
	cp $grub/i386-pc/boot.img "$work/boot.img"
	little64 $core | dd of="$work/boot.img" bs=1 seek=92 conv=notrunc status=none
	little64 $((core + 1)) | dd of="$work/core.img" bs=1 seek=500 conv=notrunc status=none
	dd if="$work/boot.img" of="$image" bs=1 count=440 conv=notrunc status=none
	dd if="$work/core.img" of="$image" bs=512 seek=$core conv=notrunc status=none
	# UEFI: the path that firmware looks for on a disk it does not know.
	grub-mkimage -O x86_64-efi -d $grub/x86_64-efi -c "$work/grub.cfg" -p /boot/grub -o "$work/bootx64.efi" configfile fat $modules
	local esp=$image@@$((4096 * 512))
	mformat -i "$esp" -T 8192 -h 16 -s 32 ::
	mmd -i "$esp" ::/EFI ::/EFI/BOOT
	mcopy -i "$esp" "$work/bootx64.efi" ::/EFI/BOOT/BOOTX64.EFI
}

# little64 NUMBER prints it in 8 bytes.
little64() {
	local n=$1 i
	for i in 1 2 3 4 5 6 7 8; do
		printf "\\x$(printf %02x $((n & 255)))"
		n=$((n >> 8))
	done
}

machine= console= seen=0
# boot NAME ARGUMENT… starts a machine with 2 processors. Its process is $machine, its serial console $console; say and await talk to it.
boot() {
	console=$work/$1.console
	shift
	rm -f "$work/keys" && mkfifo "$work/keys"
	: >"$console" # await may look before QEMU is there
	exec 7<>"$work/keys"
	qemu-system-x86_64 -M q35 -cpu max -accel tcg,thread=multi -smp 2 -m 1024 -nodefaults -display none -serial stdio -no-reboot \
		-device virtio-rng-pci "$@" <&7 >"$console" 2>&1 &
	machine=$!
	seen=0
}

# say LINE types it on the machine's console. What stands there already is no longer looked at by await.
say() {
	seen=$(stat -c %s "$console")
	printf '%s\n' "$1" >&7
}

# await SECONDS PATTERN waits until the console has a line with it, since say was last called.
await() {
	local deadline=$((SECONDS + $1))
	until tail -c "+$((seen + 1))" "$console" | tr -d '\r' | grep -qaE "$2"; do
		kill -0 "$machine" 2>/dev/null || hung "the machine has ended before: $2"
		[ $SECONDS -lt $deadline ] || hung "in vain for $1 s: $2"
		sleep 0.1
	done
}

# hung ends the test, with the end of the console.
hung() {
	tail -n 40 "$console" | tr -d '\r' >&2
	fail "$1"
}

# login PASSWORD waits for the prompt and logs root in. The shell is to be sh: it does not draw on the console.
login() {
	await 180 'login: ?$'
	say root
	await 60 'Password: ?$'
	say "$1"
	await 60 '# ?$'
	in_guest 30 'dmesg -n 1; stty -echo' >/dev/null
}

# in_guest SECONDS COMMAND runs it in the machine where login was, prints what it prints, and fails with its status.
in_guest() {
	say "$2; echo \"ended with \$?.\""
	await "$1" '^ended with [0-9]+\.'
	local text
	text=$(tail -c "+$((seen + 1))" "$console" | tr -d '\r')
	grep -avE '^(# )*(ended with |$)' <<<"$text" || true
	return "$(grep -aoE 'ended with [0-9]+\.' <<<"$text" | tail -1 | tr -dc 0-9)"
}

# cut_power takes the machine's power.
cut_power() {
	kill -9 "$machine"
	wait "$machine" 2>/dev/null || true
	machine=
}
