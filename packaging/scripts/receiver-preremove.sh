#!/bin/sh
# Before the receiver goes: "remove" from dpkg, 0 from rpm.
set -e
case "$1" in remove | 0) ;; *) exit 0 ;; esac
if command -v systemctl >/dev/null; then systemctl --no-reload disable understudy-receiver.service; fi
if [ -d /run/systemd/system ]; then systemctl stop understudy-receiver.service; fi
