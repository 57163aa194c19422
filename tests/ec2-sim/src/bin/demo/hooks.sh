# The hooks of a Kafka node. The broker is a stand-in: it answers two seconds after it was configured.

DATA=$MOUNT_PATH/kafka
STARTED=/run/broker-started
TRIES=20

# Bears being run again, and finds a volume with data as well as an empty one.
configure_cluster_node() {
  local node_id=$1
  if [[ -e $DATA/meta.properties ]]; then
    echo "broker $node_id comes back to its data"
  else
    echo "broker $node_id is new: making $DATA"
    mkdir -p "$DATA/orders-0"
    head -c 3000000 /dev/urandom > "$DATA/orders-0/00000000000000000000.log"
    printf 'version=1\nnode.id=%s\n' "$node_id" > "$DATA/meta.properties"
    chown -R "$OWNER:$GROUP" "$DATA"
  fi
  touch "$STARTED"
}

broker_answers() {
  (( $(date +%s) - $(stat -c %Y "$STARTED") >= 2 ))
}

wait_for_healthy_cluster() {
  local node_id=$1 node_ip=$2 try
  for (( try = 1; try <= TRIES; try++ )); do
    if broker_answers; then
      echo "broker $node_id answers on $node_ip:9092"
      return 0
    fi
    echo "no answer from $node_ip:9092 yet (try $try of $TRIES)"
    sleep 0.5
  done
  echo "broker $node_id never answered"
  return 1
}
