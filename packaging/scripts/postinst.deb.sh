#!/bin/sh
# $1: what dpkg does; $2: the version that was configured before, empty at the first install
set -e
case "$1" in
configure | abort-upgrade | abort-deconfigure | abort-remove) ;;
*) exit 0 ;;
esac
units="bothy.socket bothy-admin.socket bothy.service"
systemd-sysusers ${DPKG_ROOT:+--root="$DPKG_ROOT"} bothy.conf
systemd-tmpfiles ${DPKG_ROOT:+--root="$DPKG_ROOT"} --create bothy.conf || true
for u in $units; do
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
	if [ -n "$2" ]; then
		# The sockets stay open: clients wait while the agent restarts.
		if systemctl --quiet is-active bothy.service; then
			deb-systemd-invoke restart bothy.service >/dev/null || true
		fi
	else
		# shellcheck disable=SC2086
		deb-systemd-invoke start $units >/dev/null || true
	fi
fi
