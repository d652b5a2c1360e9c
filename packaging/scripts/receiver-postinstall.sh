#!/bin/sh
# After an install or an upgrade: "configure" from dpkg, 1 or 2 from rpm. Nothing is started that was not running: there is
# no certificate yet.
set -e
case "$1" in configure | 1 | 2) ;; *) exit 0 ;; esac
# Both need /proc; in an image that is being built without it, its first boot does the same.
if command -v systemd-sysusers >/dev/null; then systemd-sysusers understudy-receiver.conf || true; fi
if command -v systemd-tmpfiles >/dev/null; then systemd-tmpfiles --create understudy-receiver.conf || true; fi
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
	systemctl try-restart understudy-receiver.service || true # why it fails is in its log; the package is installed
fi
