# shellcheck shell=sh
# The configuration, the journal, mounted volumes and the fstab lines that mount them at the next boot stay.
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
fi
