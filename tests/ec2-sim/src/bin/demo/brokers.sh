#!/usr/bin/env bash
# The check of the roll: do all three brokers run? Here the operator's machine sees the nodes' processes. A real check asks the
# cluster, as check_cluster of the scripts in packaging/hooks does.

brokers=$(grep -lsz '^kafka-broker-' /proc/[0-9]*/cmdline | wc -l)
echo "$brokers of 3 brokers run"
(( brokers == 3 ))
