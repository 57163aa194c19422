# The hooks of the nodes that are rolled. The broker is a stand-in: a process with its name, which answers soon after its
# start. A line above this one sets RELEASE.

DATA=$MOUNT_PATH/kafka
PID=/run/kafka-broker.pid
PIPE=/run/kafka-broker

configure_cluster_node() {
  local node_id=$1
  if (( RELEASE >= 2 )) && [[ ! -s $DATA/licence ]]; then
    echo "release $RELEASE needs a licence: $DATA/licence is missing" >&2
    return 1
  fi
  if [[ ! -e $DATA/meta.properties ]]; then
    mkdir -p "$DATA/orders-0"
    head -c 300000 /dev/urandom > "$DATA/orders-0/00000000000000000000.log"
    printf 'version=1\nnode.id=%s\n' "$node_id" > "$DATA/meta.properties"
  fi
  chown -R "$OWNER:$GROUP" "$DATA"
  broker_runs || start_broker "$node_id"
}

# The process opens a pipe that nobody writes to, and so it waits until it is ended.
start_broker() {
  [[ -p $PIPE ]] || mkfifo "$PIPE"
  setsid bash -c 'echo $$ > "$0"; exec -a "$1" bash -c "read -r < $2"' "$PID" "kafka-broker-$1" "$PIPE" \
    < /dev/null > /dev/null 2>&1 &
}

broker_runs() {
  [[ -s $PID ]] && kill -0 "$(< "$PID")"
}

broker_answers() {
  broker_runs && (( $(date +%s) > $(stat -c %Y "$PID") ))
}

wait_for_healthy_cluster() {
  until broker_answers; do sleep 0.2; done
  echo "broker $1 of release $RELEASE answers on $2:9092"
}

# The agent calls this before the instance goes.
drain_cluster_node() {
  kill "$(< "$PID")"
}
