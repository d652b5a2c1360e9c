#!/bin/bash
# What packaging/install.sh runs inside of the Debian that it starts: steps in order, the first that fails ends it.
set -euo pipefail
. /test/disks # data and other: two block devices
here=/srv/data elsewhere=/srv/other
record=/run/understudy/agent.sock.frozen
step() { echo "install:   $*"; }
fail() { echo "install:   $*" >&2; exit 1; }

# within SECONDS COMMAND… waits for the command to succeed.
within() {
	local deadline=$((SECONDS + $1))
	shift
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $deadline ] || fail "in vain: $*"
		sleep 0.2
	done
}
main_pid() { systemctl show -P MainPID understudy-agent; }
guard_pid() { pgrep -P "$(main_pid)" -f ' guard$'; }
protected() { understudy status | grep -q " protected "; }
points() { understudy points "$data" --receiver 127.0.0.1:443 --pki /root/ann; }
newest() { points | tail -1 | awk '{ print $1 }' | tr -d '#'; }
newer_than() { [ "$(newest)" -gt "$1" ]; }
writable() { timeout -s KILL "${2:-5}" bash -c "echo x >$1/probe && rm $1/probe"; }
rests() { [ "$(cat /sys/kernel/rcu_expedited)" = 0 ]; } # the kernel takes its time; it is the whole machine's switch
log() { journalctl -q -o cat -u understudy-agent --since "$since"; }
mark() { sleep 1.1; since=$(date '+%F %T'); } # the journal's --since is in seconds

# held tells whether the agent holds the disk frozen, by its record.
held() { [ "$(od -An -tu4 -j56 -N4 $record)" -eq 2 ]; }

# stopped_in_freeze stops agent and guard in the middle of a freeze. The guard first: it must not thaw. The record alone does not
# tell: a thread that is stopped in the middle of a thaw ends it first, and has then not written that it did.
stopped_in_freeze() {
	local agent guard
	agent=$(main_pid) guard=$(guard_pid)
	for _ in $(seq 300); do
		until held; do :; done
		kill -STOP "$guard" "$agent"
		if held && ! writable $here 1; then return; fi
		kill -CONT "$guard" "$agent"
		sleep 0.3
	done
	fail "never stopped in the middle of a freeze"
}

installs() {
	step "install: asks nothing, starts nothing"
	dpkg -i /test/*_1.0.0_*.deb </dev/null >/dev/null 2>/root/dpkg || { cat /root/dpkg; fail "dpkg"; }
	local name unit
	for name in understudy understudy-agent understudy-receiver; do
		[ "$($name --version)" = "$name version 1.0.0" ] || fail "$name is not of that version"
		[ -s /usr/share/man/man1/$name.1.gz ] || fail "no man page of $name"
		bash -n /usr/share/bash-completion/completions/$name
	done
	for unit in understudy-agent understudy-receiver; do
		! systemctl is-enabled --quiet $unit && ! systemctl is-active --quiet $unit || fail "$unit was started or enabled"
	done
	[ "$(dpkg-query -W -f '${Conffiles}' understudy-agent | awk '{ print $1 }')" = /etc/understudy/agent.toml ] || fail "conffiles of the agent"
	dpkg -V understudy understudy-agent understudy-receiver
	[ "$(stat -c %U:%a /etc/understudy/pki)" = understudy:750 ] || fail "the folder for certificates"
	[ -x /usr/share/understudy/hooks/postgresql/pre-freeze ] || fail "no hooks"
}

starts() {
	step "day 1 as docs/OPERATING.md has it: the CA at the receiver, tokens, enrolment, systemctl enable --now"
	local ca=/etc/understudy/ca
	understudy pki init --dir $ca --site lab >/dev/null
	understudy pki issue --dir $ca --name vault --role target --out /etc/understudy/pki >/dev/null
	understudy pki issue --dir $ca --name ann --role admin --out /root/ann >/dev/null
	chown -R understudy: $ca /etc/understudy/pki
	echo "ca = \"$ca\"" >>/etc/understudy/receiver.toml
	systemctl enable --quiet --now understudy-receiver
	# Both roles on one machine: there can be one certificate only in /etc/understudy/pki. A token of root beside the CA, and one by
	# way of the receiver: the receiver, which is another user, has to be able to spend both.
	local token
	token=$(understudy enroll-token --host web1 --dir $ca --receiver 127.0.0.1:443 2>/dev/null)
	understudy-agent enroll --token "$token" --host web1 --pki /root/web1 >/dev/null
	token=$(understudy enroll-token --host web1 --receiver 127.0.0.1:443 --pki /root/ann 2>/dev/null)
	understudy-agent enroll --force --token "$token" --host web1 --pki /root/web1 >/dev/null
	[ "$(find $ca -printf '%u\n' | sort -u)" = understudy ] || fail "the CA's folder: $(ls -lR $ca)"
	mkdir -p $here $elsewhere
	mkfs.ext4 -q "$data" && mount "$data" $here
	mkfs.ext4 -q "$other" && mount "$other" $elsewhere
	sed -i "s|^#disks = .*|disks = [\"$data\"]|; s|^#receiver = .*|receiver = \"127.0.0.1:443\"|; s|^#host = .*|host = \"web1\"|
		s|^#pki = .*|pki = \"/root/web1\"|; s|^#interval = .*|interval = \"1s\"|; s|^#unfreezable|unfreezable|" /etc/understudy/agent.toml
	mark
	systemctl enable --quiet --now understudy-agent
	within 30 protected
	within 30 newer_than 3
	points | tail -1 | grep -q ' crash ' || fail "no point of class crash: $(points | tail -1)"
	local agent receiver
	agent=$(main_pid) receiver=$(systemctl show -P MainPID understudy-receiver)
	[ "$(stat -c %U /proc/"$receiver")" = understudy ] || fail "the receiver is not its own user"
	[ "$(readlink /proc/"$agent"/ns/mnt)" = "$(readlink /proc/1/ns/mnt)" ] || fail "the agent does not see the host's mounts"
	[ "$(awk '$1 == "Seccomp:" { print $2 }' /proc/"$agent"/status)" = 2 ] || fail "the agent has no filter of system calls"
	grep -q '^VmLck:.* [1-9]' /proc/"$agent"/status || fail "the agent is not locked in memory"
	# A completion that this kernel does not report is no fault of the package.
	! log | grep -E 'level=(WARN|ERROR)' | grep -v 'tracking may have missed' || fail "the agent complains"
}

# page PORT is what a daemon shows to Prometheus.
page() {
	exec 3<>"/dev/tcp/127.0.0.1/$1"
	printf 'GET /metrics HTTP/1.0\r\n\r\n' >&3
	cat <&3
	exec 3>&-
}

watched() {
	step "metrics under the units: on loopback alone, with what each may see of itself"
	local agent receiver shown
	agent=$(page 14430) receiver=$(page 14431)
	grep -qE '^understudy_agent_rpo_seconds\{.*\} [0-9.]+$' <<<"$agent" || fail "no RPO: $agent"
	grep -qE '^understudy_agent_freeze_seconds_count [1-9]' <<<"$agent" || fail "no freezes: $agent"
	grep -qE '^understudy_receiver_points\{.*host="web1"\} [1-9]' <<<"$receiver" || fail "no points: $receiver"
	grep -qE '^understudy_receiver_space_free_bytes [1-9]' <<<"$receiver" || fail "no space: $receiver"
	for shown in "$agent" "$receiver"; do
		grep -qF 'version="1.0.0"' <<<"$shown" || fail "not the version: $shown"
		grep -qE '^process_resident_memory_bytes [1-9]' <<<"$shown" && grep -qE '^process_open_fds [1-9]' <<<"$shown" || fail "it does not see itself: $shown"
	done
	# local address and port in hexadecimal: 0100007F is 127.0.0.1
	[ "$(awk '$4 == "0A" && $2 ~ /:(385E|385F)$/ { print $2 }' /proc/net/tcp /proc/net/tcp6 | sort | xargs)" = "0100007F:385E 0100007F:385F" ] || fail "it listens elsewhere"
	[ -s /usr/share/understudy/prometheus/alerts.yml ] && [ -s /usr/share/understudy/grafana/understudy.json ] || fail "no rules, or no dashboard"
}

reloads() {
	step "systemctl reload: the log's level"
	mark
	sed -i 's|^#\[log\]|[log]|; s|^#level = .*|level = "debug"|' /etc/understudy/agent.toml
	systemctl reload understudy-agent
	within 10 bash -c "journalctl -q -o cat -u understudy-agent --since '$since' | grep -q 'recovery point'"
	sed -i 's|^level = "debug"|level = "info"|' /etc/understudy/agent.toml
	systemctl reload understudy-agent
	! log | grep -q 'restart to have that' || fail "it takes the level for more"
	systemctl is-active --quiet understudy-agent
}

hooks() {
	step "hooks under the unit: as another user, and the point is the application's"
	printf '#!/bin/sh\ntouch /tmp/hook-$UNDERSTUDY_HOOK-$(id -un)\n' >/usr/local/bin/hook && chmod 755 /usr/local/bin/hook
	cp /etc/understudy/agent.toml /root/agent.toml
	printf '[[application]]\nname = "probe"\npre_freeze = "/usr/local/bin/hook"\npost_thaw = "/usr/local/bin/hook"\nuser = "nobody"\nevery = "1s"\n' >>/etc/understudy/agent.toml
	systemctl restart understudy-agent
	within 30 bash -c "understudy points $data --receiver 127.0.0.1:443 --pki /root/ann | grep -q ' application '"
	[ -e /tmp/hook-pre-freeze-nobody ] && [ -e /tmp/hook-post-thaw-nobody ] || fail "the hooks' files are not in the host's /tmp: $(ls /tmp)"
	mv /root/agent.toml /etc/understudy/agent.toml
	systemctl restart understudy-agent
	within 30 protected
}

hangs() {
	step "an agent that hangs is started anew by the watchdog"
	mkdir -p /run/systemd/system/understudy-agent.service.d
	printf '[Service]\nWatchdogSec=2\nTimeoutAbortSec=1\n' >/run/systemd/system/understudy-agent.service.d/soon.conf
	systemctl daemon-reload && systemctl restart understudy-agent
	within 30 protected
	local agent
	agent=$(main_pid)
	sleep 5
	[ "$(main_pid)" = "$agent" ] || fail "the watchdog takes one that works for one that hangs"
	kill -STOP "$agent"
	within 30 bash -c "[ \$(systemctl show -P MainPID understudy-agent) != $agent ] && understudy status | grep -q ' protected '"
	rm -r /run/systemd/system/understudy-agent.service.d
	systemctl daemon-reload && systemctl restart understudy-agent
	within 30 protected
}

killed() {
	step "kill -9 of the agent in the middle of a freeze"
	local before agent
	for _ in 1 2 3; do
		mark
		agent=$(main_pid)
		until held; do :; done
		kill -9 "$agent"
		writable $here 2 || fail "still frozen"
		within 30 protected
		log | grep -q 'resumed=true' || fail "tracking did not go on"
		before=$(newest)
		within 30 newer_than "$before"
	done
}

both_killed() {
	step "kill -9 of agent and guard in the middle of a freeze, while somebody else holds another disk frozen"
	local agent guard
	mark
	fsfreeze --freeze $elsewhere
	agent=$(main_pid) guard=$(guard_pid)
	stopped_in_freeze
	kill -9 "$guard" "$agent"
	writable $here 3 || fail "still frozen"
	! writable $elsewhere 1 || fail "what somebody else froze was thawed"
	within 3 rests
	fsfreeze --unfreeze $elsewhere
	log | grep -qx "thawed: $here" || fail "it was not the unit that thawed: $(log)"
	within 30 protected
	log | grep -q 'resumed=true' || fail "tracking did not go on"
}

stopped() {
	step "systemctl stop in the middle of a freeze"
	for _ in 1 2 3; do
		until held; do :; done
		systemctl stop understudy-agent
		writable $here 1 || fail "still frozen"
		! held || fail "the record says otherwise"
		within 3 rests
		[ "$(systemctl show -P Result understudy-agent)" = success ] || fail "it did not end well: $(systemctl show -P Result understudy-agent)"
		systemctl start understudy-agent
		within 30 protected
	done
}

upgrades() {
	step "upgrade under load: tracking goes on, no rescan"
	local before agent
	fio --name=load --directory=$here --size=64M --rw=randwrite --bs=4k --ioengine=psync --rate_iops=2000 --fsync=32 --time_based --runtime=60 >/dev/null 2>&1 &
	local fio=$!
	sleep 3
	mark
	before=$(newest) agent=$(main_pid)
	dpkg -i /test/*_1.0.1_*.deb </dev/null >/dev/null 2>/root/dpkg || { cat /root/dpkg; fail "dpkg"; }
	[ "$(understudy-agent --version)" = "understudy-agent version 1.0.1" ] || fail "not the version that was upgraded to"
	[ "$(main_pid)" != "$agent" ] || fail "the old agent still runs"
	[ "$(readlink /proc/"$(main_pid)"/exe)" = /usr/bin/understudy-agent ] || fail "the old program still runs"
	within 60 newer_than $((before + 5))
	kill -0 $fio || fail "the load has ended: the test proves nothing"
	kill $fio && wait $fio || true
	log | grep 'msg=tracking' | grep -q 'resumed=true' || fail "tracking did not go on: $(log)"
	! points | awk -v n="$before" '{ sub("#", "", $1) } $1 + 0 > n' | grep ' fuzzy ' || fail "points after the upgrade are fuzzy: there was a gap"
	grep -q '^interval = "1s"' /etc/understudy/agent.toml || fail "the configuration is lost"
	systemctl is-enabled --quiet understudy-agent understudy-receiver || fail "not enabled any more"
	within 60 understudy verify "$data"
}

removes() {
	step "remove: stopped, nothing pinned; configuration and state stay"
	local id
	id=$(understudy-agent identity | awk '$1 == "disk:" { print $2 }')
	find /sys/fs/bpf/understudy | grep -q "$id" || fail "not pinned: the test proves nothing"
	dpkg -r understudy-agent >/dev/null
	! systemctl is-active --quiet understudy-agent || fail "still running"
	! find /sys/fs/bpf/understudy 2>/dev/null | grep "$id" || fail "still tracked"
	[ ! -L /etc/systemd/system/multi-user.target.wants/understudy-agent.service ] || fail "still enabled"
	[ -s /etc/understudy/agent.toml ] && [ -s /var/lib/understudy/agent/disks.json ] || fail "configuration or state is gone"
	step "purge: nothing is left but the CA"
	dpkg -P understudy-agent >/dev/null
	[ ! -e /var/lib/understudy/agent ] && [ ! -e /etc/understudy/agent.toml ] || fail "state or configuration is left"
	[ -s /etc/understudy/pki/host.key ] || fail "the receiver's certificate is gone with the agent"
	dpkg -P understudy-receiver understudy >/dev/null
	[ "$(ls /etc/understudy)" = ca ] || fail "the CA is gone, or more than that is left: $(ls /etc/understudy)"
	rm -r /etc/understudy
	[ ! -e /etc/understudy ] && [ ! -e /var/lib/understudy ] && [ ! -e /run/understudy ] || fail "left: $(find /etc/understudy /var/lib/understudy /run/understudy)"
	! systemctl list-unit-files | grep understudy || fail "units are left"
	umount $here $elsewhere
}

cleanup() {
	fsfreeze --unfreeze $here
	fsfreeze --unfreeze $elsewhere
	systemctl stop understudy-agent
	understudy-agent thaw --config /etc/understudy/agent.toml
	understudy-agent forget --config /etc/understudy/agent.toml
	umount $here $elsewhere
}

[ $# -gt 0 ] || set -- installs starts watched reloads hooks hangs killed both_killed stopped upgrades removes
set +e
for s in "$@"; do
	(set -e; "$s") || exit 1
done
