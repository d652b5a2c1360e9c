#!/bin/sh
# After the operator's command has gone: "purge" from dpkg. rpm has no purge.
set -e
case "$1" in
purge)
	# Certificates are for all of Understudy that is here: they go with the last of it.
	if [ -z "$(ls /usr/bin/understudy /usr/bin/understudy-* /etc/understudy/*.toml 2>/dev/null)" ]; then rm -rf /etc/understudy/pki; fi
	rmdir --ignore-fail-on-non-empty /etc/understudy /var/lib/understudy 2>/dev/null || true
	;;
esac
