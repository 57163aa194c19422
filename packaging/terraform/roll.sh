#!/bin/sh
# What null_resource.roll_instances (main.tf) runs, by /bin/sh -c, with all values in environment variables.
set -euf

if [ -z "$ROLL_GROUPS" ]; then
  echo "The cluster has no nodes: nothing is rolled."
  exit 0
fi
if [ "$ROLL_ON_APPLY" != true ]; then
  echo "roll_on_apply is false: nothing was rolled. To roll: $ROLL_COMMAND roll --cluster '$ROLL_CLUSTER' --yes"
  exit 0
fi

# Names of groups have no white space: app_name and node_id take none.
groups=$ROLL_GROUPS
set -- roll --yes --timeout "$ROLL_TIMEOUT"
for group in $groups; do
  set -- "$@" --asg "$group"
done
if [ -n "$ROLL_CHECK" ]; then
  set -- "$@" --check "$ROLL_CHECK"
fi
if [ -n "$ROLL_LEADER" ]; then
  set -- "$@" --leader "$ROLL_LEADER"
fi
if [ -n "$ROLL_HOOKS" ]; then
  set -- "$@" --hooks "$ROLL_HOOKS"
fi

# roll_command is several words where it starts a container, with quotes and variables of its own.
exec sh -c "$ROLL_COMMAND \"\$@\"" roll_command "$@"
