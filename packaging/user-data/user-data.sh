#!/bin/bash
# Fetches node-agent, which then brings the node up as a service. Replace what stands in <…> and the example's own values.
# EC2 takes 16 KiB of user data at most; larger files and scripts the agent fetches itself: source = "s3://…".
set -euo pipefail

# The configuration may hold secrets.
umask 077
install -d -m 0755 /etc/node-agent
cat > /etc/node-agent/config.toml <<'END'
[node]
id = "00"
ip = "10.0.1.10"

[lifecycle]
asg_name = "kafka-node-00"
hook_name = "kafka-node-asg-hook"

[[volume]]
id = "vol-0123456789abcdef0"
mount_path = "/mydata"
file_system = "xfs"
mount_options = ["noatime"]
owner = "kafka"
group = "kafka"

[[file]]
destination = "/etc/kafka/server.properties"
source = "s3://my-bucket/node-00/server.properties"
group = "kafka"
mode = "0640"

# Sourced by bash with set -Eeuo pipefail; each function gets the node's id and address.
[hooks]
script_source = "s3://my-bucket/hooks.sh"
END

# Not in /tmp, where programs may be forbidden.
dir=$(mktemp -d /root/node-agent.XXXXXX)
trap 'rm -rf "$dir"' EXIT
curl --fail --location --silent --show-error --proto =https --retry 30 --retry-delay 5 --retry-connrefused \
    --output "$dir/node-agent" 'https://<where you keep it>/node-agent'
echo '<what sha256sum prints>  '"$dir/node-agent" | sha256sum --check
chmod 0755 "$dir/node-agent"
# Installs itself and its unit and starts it, without waiting: the service is part of the boot that this is part of.
"$dir/node-agent" install --now
