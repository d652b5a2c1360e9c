#!/bin/sh
# Before the agent goes: "remove" from dpkg, 0 from rpm. On an upgrade it keeps running, and its tracking with it.
set -e
case "$1" in remove | 0) ;; *) exit 0 ;; esac
if command -v systemctl >/dev/null; then systemctl --no-reload disable understudy-agent.service; fi
if [ -d /run/systemd/system ]; then systemctl stop understudy-agent.service; fi
# Where there is no BPF, nothing is tracked.
if [ -d /sys/fs/bpf/understudy ]; then
	# A configuration that can't be read must not keep the package.
	understudy-agent forget --config /etc/understudy/agent.toml || understudy-agent forget ||
		echo "understudy-agent: tracking could not be ended; the kernel goes on until the next boot" >&2
fi
