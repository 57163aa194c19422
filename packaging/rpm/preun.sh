# shellcheck shell=sh
# A removed agent leaves no process behind. What its hooks started lives on: the unit has KillMode=process. An upgrade stops
# nothing.
if [ "$1" -eq 0 ] && command -v systemctl >/dev/null; then
    systemctl --no-reload disable node-agent.service || :
    if [ -d /run/systemd/system ]; then
        systemctl stop node-agent.service || :
    fi
fi
