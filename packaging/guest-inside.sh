#!/bin/bash
# What packaging/guest.sh runs inside of the machines that it boots: one step, named by the argument.
set -euo pipefail
here=$(dirname "$0")
fail() { echo "guest:   $*"; journalctl --no-pager -q -n 30 -o cat -u understudy-agent; exit 1; }

# within SECONDS COMMAND… waits for the command to succeed.
within() {
	local deadline=$((SECONDS + $1))
	shift
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $deadline ] || fail "in vain: $*"
		sleep 0.5
	done
}
says() { journalctl -q -o cat -b -u understudy-agent | grep -q "$1"; }
protected() { understudy status | grep -q " protected "; }

protect() {
	dpkg -i "$here"/*.deb </dev/null >/root/dpkg 2>&1 || { cat /root/dpkg; fail "dpkg"; }
	understudy-agent enroll --receiver 10.0.2.2:443 --token - <"$here/token"
	sed -i 's|^#disks = .*|disks = ["/dev/vda"]|; s|^#receiver = .*|receiver = "10.0.2.2:443"|; s|^#interval = .*|interval = "2s"|' /etc/understudy/agent.toml
	systemctl enable --now understudy-agent
	[ "$(findmnt -n -o SOURCE /)" = /dev/vda3 ] || fail "/ is not on the disk"
	# All that the agent is made of lies on the disk that it freezes.
	local path
	for path in /usr/bin/understudy-agent /var/lib/understudy/agent /etc/understudy /var/log/journal; do
		[ "$(findmnt -n -o TARGET --target $path)" = / ] || fail "$path is elsewhere"
	done
	within 150 protected
	understudy status
}

# write stores files, says which are safe and when, and never ends. What it says counts only once all is on the disk.
write() {
	mkdir -p /srv/files
	sync /srv
	(while :; do dd if=/dev/urandom of=/srv/load bs=16k count=8 seek=$((RANDOM % 256 * 8)) conv=notrunc,fsync status=none; done) &
	local n=0 file
	echo # away from the prompt
	while :; do
		n=$((n + 1)) file=/srv/files/$n
		head -c $((RANDOM + 1)) /dev/urandom >$file.new
		sync $file.new
		mv $file.new $file
		sync /srv/files
		echo "ACK $n $(date +%s%N) $(sha256sum <$file | cut -c 1-64)"
	done
}

check() {
	[ "$(findmnt -n -o SOURCE /)" = /dev/vda3 ] || fail "/ is not on the restored disk"
	systemctl is-system-running --wait || true
	sha256sum --quiet --strict -c "$here/expected" || fail "files are not what they were"
	! dmesg | grep -E 'EXT4-fs (error|warning)' || fail "the file system is damaged"
	echo "guest:   $(wc -l <"$here/expected") files are what they were"
}

# refused holds that the agent, which started with the replica, has been told that the copy is not its own.
refused() {
	systemctl is-enabled --quiet understudy-agent || fail "the agent does not start with the replica"
	within 90 says 'that of another machine of this name'
	! says 'recovery point' || fail "it took a point"
	journalctl -q -o cat -b -u understudy-agent | grep -m 1 'that of another machine of this name'
}

"$1"
