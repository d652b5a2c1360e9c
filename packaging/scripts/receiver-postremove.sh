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
	# Certificates are for all of Understudy that is here: they go with the last of it.
	if [ -z "$(ls /usr/bin/understudy /usr/bin/understudy-* /etc/understudy/*.toml 2>/dev/null)" ]; then rm -rf /etc/understudy/pki; fi
	rmdir --ignore-fail-on-non-empty /etc/understudy /var/lib/understudy 2>/dev/null || true
	;;
esac
