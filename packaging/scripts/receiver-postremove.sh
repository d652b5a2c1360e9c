#!/bin/sh
# After the receiver has gone: "remove" and then, maybe, "purge" from dpkg, 0 from rpm, which has no purge. The user understudy
# stays: what it owns elsewhere must not become somebody else's.
set -e
case "$1" in
remove | 0)
	if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
	;;
purge)
	rm -rf /var/lib/understudy/receiver
	if [ ! -e /usr/bin/understudy-agent ] && [ ! -e /usr/bin/understudy ]; then rm -rf /etc/understudy; fi
	rmdir --ignore-fail-on-non-empty /var/lib/understudy 2>/dev/null || true
	;;
esac
