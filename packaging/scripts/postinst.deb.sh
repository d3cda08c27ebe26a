#!/bin/sh
# $1: what dpkg does. Its $2, the version before, tells nothing: a removed package that left its configuration has one.
set -e
case "$1" in
configure | abort-upgrade | abort-deconfigure | abort-remove) ;;
*) exit 0 ;;
esac
systemd-sysusers ${DPKG_ROOT:+--root="$DPKG_ROOT"} bothy.conf
systemd-tmpfiles ${DPKG_ROOT:+--root="$DPKG_ROOT"} --create bothy.conf || true
for u in bothy.socket bothy-admin.socket bothy.service; do
	deb-systemd-helper unmask "$u" >/dev/null || true
	if deb-systemd-helper --quiet was-enabled "$u"; then
		deb-systemd-helper enable "$u" >/dev/null || true
	else
		# The administrator disabled it: record what is new, change nothing.
		deb-systemd-helper update-state "$u" >/dev/null || true
	fi
done
if [ -z "${DPKG_ROOT:-}" ] && [ -d /run/systemd/system ]; then
	systemctl --system daemon-reload >/dev/null || true
	# The sockets stay open over an upgrade: clients wait while the agent restarts. What is disabled is left alone.
	deb-systemd-invoke start bothy.socket bothy-admin.socket >/dev/null || true
	deb-systemd-invoke restart bothy.service >/dev/null || true
fi
