# $1: how many versions will stay: 0 at the removal, 1 at an upgrade
if [ "$1" -eq 0 ] && [ -d /run/systemd/system ]; then
	systemctl --no-reload disable --now bothy.socket bothy-admin.socket bothy.service >/dev/null 2>&1 || :
fi
