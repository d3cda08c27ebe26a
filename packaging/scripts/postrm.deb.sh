#!/bin/sh
# $1: what dpkg does. Remove keeps models, identity and audit; purge deletes them.
set -e
if [ "$1" = remove ] && [ -z "${DPKG_ROOT:-}" ] && [ -d /run/systemd/system ]; then
	systemctl --system daemon-reload >/dev/null || true
	rm -rf /run/bothy
fi
if [ "$1" = purge ]; then
	if command -v deb-systemd-helper >/dev/null; then
		deb-systemd-helper purge bothy.socket bothy-admin.socket bothy.service >/dev/null || true
	fi
	rm -rf "${DPKG_ROOT:-}/var/lib/bothy"
	rmdir "${DPKG_ROOT:-}/etc/bothy" 2>/dev/null || true
fi
