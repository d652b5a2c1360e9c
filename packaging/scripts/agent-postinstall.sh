#!/bin/sh
# After an install or an upgrade: "configure" from dpkg, 1 or 2 from rpm. Nothing is started that was not running: there is
# no certificate yet.
set -e
case "$1" in configure | 1 | 2) ;; *) exit 0 ;; esac
# It needs /proc; in an image that is being built without it, its first boot does the same.
if command -v systemd-tmpfiles >/dev/null; then systemd-tmpfiles --create understudy-agent.conf || true; fi
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
	# The kernel goes on tracking: the new agent takes over where the old one was.
	systemctl try-restart understudy-agent.service || true # why it fails is in its log; the package is installed
fi
