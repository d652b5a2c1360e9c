#!/bin/sh
# After the agent has gone: "remove" and then, maybe, "purge" from dpkg, 0 from rpm, which has no purge.
set -e
case "$1" in
remove | 0)
	if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
	;;
purge)
	rm -rf /var/lib/understudy/agent /run/understudy
	if [ ! -e /usr/bin/understudy-receiver ] && [ ! -e /usr/bin/understudy ]; then rm -rf /etc/understudy; fi
	rmdir --ignore-fail-on-non-empty /var/lib/understudy 2>/dev/null || true
	;;
esac
