#!/bin/bash
# Takes off a machine what must not get into an image of it. Run as root, as the last thing before the snapshot. README.md says
# what each is for.
set -euo pipefail

die() {
    echo "clean.sh: $*" >&2
    exit 1
}

(( EUID == 0 )) || die "run it as root"

# Where data volumes may be mounted: by fstab's lines of the agent, by its journal, which knows those of other tools' lines too,
# and by the configuration.
mount_points() {
    # fstab writes blanks as octal escapes.
    awk '$1 !~ /^#/ && $4 ~ /(^|,)x-node-agent=/ { print $2 }' /etc/fstab | while read -r path; do printf '%b\n' "$path"; done
    local state=/var/lib/node-agent/state.json config=/etc/node-agent/config.toml
    [[ ! -e $state ]] || sed -n 's/.*"mount_point": *"\([^"]*\)".*/\1/p' "$state"
    [[ ! -e $config ]] || sed -n 's/^[[:space:]]*mount_path[[:space:]]*=[[:space:]]*["'\'']\([^"'\'']*\)["'\''].*/\1/p' "$config"
}

# A data volume that is still there would be snapshotted with the image.
while read -r mount_point; do
    if mountpoint -q "$mount_point"; then
        die "$mount_point is a node's data volume: unmount it, and detach the volume, before the image is made"
    fi
done < <(mount_points)

# The node's.
if [[ -d /run/systemd/system ]] && systemctl cat node-agent.service >/dev/null 2>&1; then
    systemctl stop node-agent.service
fi
rm -rf /var/lib/node-agent /run/node-agent
sed -i '/[,[:blank:]]x-node-agent=/d' /etc/fstab
rm -f /etc/node-agent/override.toml
# One that says only where the settings are may stay.
config=/etc/node-agent/config.toml
if [[ -e $config ]] && grep -qvE '^[[:space:]]*(#.*|source[[:space:]]*=.*)?$' "$config"; then
    rm "$config"
fi

# The instance's: made anew by what finds them missing.
if command -v cloud-init >/dev/null; then
    cloud-init clean --logs
fi
: > /etc/machine-id
if [[ -f /var/lib/dbus/machine-id && ! -L /var/lib/dbus/machine-id ]]; then
    rm /var/lib/dbus/machine-id
fi
rm -f /etc/ssh/ssh_host_*_key /etc/ssh/ssh_host_*_key.pub
rm -f /var/lib/systemd/random-seed /var/lib/systemd/credential.secret

# What should not be known to those who launch the image.
rm -f /root/.ssh/authorized_keys /home/*/.ssh/authorized_keys
rm -f /root/.bash_history /home/*/.bash_history
rm -rf /var/log/journal/*
for log in /var/log/{syslog,messages,daemon.log,user.log,cloud-init.log,cloud-init-output.log}; do
    rm -f "$log".*
    # Whoever has it open goes on writing to it.
    [[ ! -e $log ]] || : >"$log"
done
