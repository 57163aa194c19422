#!/usr/bin/env bash
# For CI jobs: fetches node-agent, compares its checksum, and becomes `node-agent roll` with the arguments given. Signals and the
# exit code are the roll's.
#
#   NODE_AGENT_URL       https:// URL of the static binary for this machine
#   NODE_AGENT_SHA256    its SHA-256, as sha256sum prints it
set -euo pipefail

: "${NODE_AGENT_URL:?is not set: the https:// URL of the node-agent binary}"
: "${NODE_AGENT_SHA256:?is not set: the SHA-256 of the binary at NODE_AGENT_URL}"

dir=$(mktemp -d)
agent=$dir/node-agent
curl --fail --silent --show-error --location --retry 5 --max-time 300 --output "$agent" "$NODE_AGENT_URL"
if ! printf '%s  %s\n' "$NODE_AGENT_SHA256" "$agent" | sha256sum --check --status; then
    seen=$(sha256sum "$agent")
    echo "$NODE_AGENT_URL has the SHA-256 ${seen%% *}, not $NODE_AGENT_SHA256; nothing was rolled" >&2
    exit 1
fi
chmod 0755 "$agent"
exec "$agent" roll "$@"
