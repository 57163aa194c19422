# The hooks of the nodes that are rolled. The broker is a stand-in: a process of this name, which answers a second after its start.
# RELEASE is set above.

DATA=$MOUNT_PATH/kafka
PID=/run/kafka-broker.pid
SOCKET=/run/kafka-broker

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
  # Waits at a pipe to which nobody writes, until it is ended.
  mkfifo "$SOCKET"
  setsid bash -c 'echo $$ > "$0"; exec -a "$1" bash -c "read -r < $2"' "$PID" "kafka-broker-$node_id" "$SOCKET" \
    < /dev/null > /dev/null 2>&1 &
}

broker_answers() {
  [[ -s $PID ]] && kill -0 "$(< "$PID")" && (( $(date +%s) > $(stat -c %Y "$PID") ))
}

wait_for_healthy_cluster() {
  until broker_answers; do sleep 0.2; done
  echo "broker $1 of release $RELEASE answers on $2:9092"
}

# Called before the instance goes: the broker ends by itself, and its files are whole.
drain_cluster_node() {
  kill "$(< "$PID")"
}
