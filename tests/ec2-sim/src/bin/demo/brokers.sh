#!/usr/bin/env bash
# The check of the roll: all three brokers run. Here the operator's machine sees the nodes' processes; a real check asks the
# cluster, as check_cluster does in the scripts of packaging/hooks.

brokers=$(grep -lsz '^kafka-broker-' /proc/[0-9]*/cmdline | wc -l)
echo "$brokers of 3 brokers run"
(( brokers == 3 ))
