#!/usr/bin/env bash
# Records what it was called with, and replaces nothing.
set -euo pipefail
echo "seed: $*" >>"${ROLLED:?}"
