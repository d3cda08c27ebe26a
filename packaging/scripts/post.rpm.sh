# $1: how many versions will be installed: 1 at the first install, 2 at an upgrade
systemd-sysusers bothy.conf >/dev/null 2>&1 || :
systemd-tmpfiles --create bothy.conf >/dev/null 2>&1 || :
if [ "$1" -eq 1 ]; then
	systemctl --no-reload preset bothy.socket bothy-admin.socket bothy.service >/dev/null 2>&1 || :
fi
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload >/dev/null 2>&1 || :
	# The sockets stay open: clients wait while the agent restarts.
	if [ "$1" -ge 2 ]; then systemctl try-restart bothy.service >/dev/null 2>&1 || :; fi
fi
