# shellcheck shell=sh
# Enables the service at the first installation, not at upgrades, so that what the administrator disabled stays so; it is
# skipped while there is no configuration. Starts nothing, and restarts nothing: an upgrade on a node at work has its effect
# at the next boot. Not by presets, which leave unknown services disabled.
if command -v systemctl >/dev/null; then
    if [ "$1" -eq 1 ]; then
        systemctl --no-reload enable node-agent.service || :
    fi
    if [ -d /run/systemd/system ]; then
        systemctl daemon-reload || :
    fi
fi
