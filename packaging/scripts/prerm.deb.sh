#!/bin/sh
# $1: what dpkg does. An upgrade stops nothing: the old agent serves until the new one is in place.
set -e
if [ "$1" = remove ] && [ -z "${DPKG_ROOT:-}" ] && [ -d /run/systemd/system ]; then
	deb-systemd-invoke stop bothy.socket bothy-admin.socket bothy.service >/dev/null || true
fi
