# shellcheck shell=bash
# Hooks of a Kafka cluster (KRaft, every node a broker and a controller), one node an Auto Scaling group. Run with Kafka 4.2.1
# (Java 17), three nodes, in network namespaces and without systemd, by tests/cluster_kafka.rs. Where systemd runs, only etcd's hook
# was tried, which writes the same unit.
#
# Needs Kafka 4.0 or later, Java, bash, coreutils, grep and sed. docs/clusters/kafka.md explains the settings.

# --- Settings: the same on every node and on the operator's machine ---------------------------------------------------------

# The nodes, ID=ADDRESS each: what the configuration has as [node] id and ip. The first one is Kafka's node 1, and so on: never change
# the order.
MEMBERS="00=10.0.1.10 01=10.0.1.11 02=10.0.1.12"
# The cluster's name. Kafka's ids of the cluster and of the data folders are made from it.
CLUSTER="kafka"
# Until then a volume that holds nothing begins a new cluster, for example 2026-11-27T12:00:00Z: an hour after the first apply.
# Set it once and never change it. Empty: never.
NEW_CLUSTER_BEFORE=""
# The server: Java, its options, the class path; and the user that runs it.
JAVA="/usr/bin/java"
JAVA_OPTIONS="-Xmx1g"
CLASS_PATH="/opt/kafka/libs/*"
RUN_AS="kafka"
# The folder of the data, below the volume's mount point: never the mount point itself, because of ext4's lost+found.
FOLDER="kafka"
# The ports for clients and other brokers, and for the controllers.
CLIENT_PORT=9092
CONTROLLER_PORT=9093
# How many replicas a topic has unless it says otherwise, and how many must be in sync for a write.
REPLICAS=3
IN_SYNC=2
# More lines for the server's configuration file.
EXTRA_CONFIG=""
# How many records of the cluster's metadata a controller may be behind.
MAX_LAG=100

# --- Where things are -------------------------------------------------------------------------------------------------------

NAME=kafka
CONFIG=/etc/kafka/node.properties
# What a person has decided about a node whose data is gone: rejoin, or new.
DECISION=/etc/node-agent/$NAME-data-is-gone
DATA=${MOUNT_PATH:-}/$FOLDER
# Whose data the volume holds. Beside the data, so that deleted data is told from a blank volume.
IDENTITY=${MOUNT_PATH:-}/$FOLDER.identity
read -ra SERVER <<<"$JAVA $JAVA_OPTIONS"
SERVER+=(-cp "$CLASS_PATH" kafka.Kafka "$CONFIG")

# --- The five functions -----------------------------------------------------------------------------------------------------

# Writes the server's configuration, formats the folder of the data where that is due, and starts the server. Starts nothing where
# the data is not this node's, or is gone.
configure_cluster_node() {
    local id=$1 ip=$2 state
    is_member "$id" "$ip" || return
    data_is_this_nodes "$id" || return
    if has_data && [[ $(data_value node.id) != "$(number "$id")" ]]; then
        echo "$DATA/meta.properties is of another node than $(number "$id"), the number of node $id in MEMBERS: its order was changed" >&2
        return 1
    fi
    write_if_changed "$CONFIG" "$(configuration "$id" "$ip")"
    if ! has_data; then
        state=$(state_without_data "$id") || return
        echo "node $id has no data yet: it begins in a cluster that is $state"
        install -d -o "$RUN_AS" -g "$(id -gn "$RUN_AS")" -m 0750 "$DATA"
        format "$state" || return
    fi
    start_server "$id"
}

# Waits until this node's controller follows the active one and its broker has all that it stores in sync. What others lack is only
# printed.
wait_for_healthy_cluster() {
    local id=$1 ip=$2 lacks='' lacking=''
    until serves "$id" "$ip"; do
        tell "waits: $lacks"
        server_has_failed && return 1
        sleep 1
    done
    write_identity "$id" "$(data_value directory.id)"
    rm -f "$DECISION"
    echo "node $id is node $(number "$id") of Kafka and in sync"
    print_absent "$id"
}

# Stops the server, which hands its partitions over first (controlled shutdown). An active controller cannot hand over: the others
# elect one when it has gone.
drain_cluster_node() {
    if ! server_runs; then
        echo "the server does not run: nothing to drain"
        return 0
    fi
    stop_server
}

# For `node-agent roll`: passes only if every broker serves, every controller follows, and every partition has all its replicas in
# sync.
check_cluster() {
    local id ip at='' count=0 faults=()
    nodes_are_the_members || return
    while read -r id ip; do
        count=$((count + 1))
        # A broker that still recovers its log does not listen.
        if listens "$ip"; then at=$ip; else faults+=("$id does not answer at $ip:$CLIENT_PORT"); fi
    done < <(members)
    if [[ $at ]]; then
        check_controllers "$at" "$count"
        check_brokers "$at"
        check_partitions "$at"
    fi
    if (( ${#faults[@]} )); then
        printf '%s\n' "${faults[@]}"
        return 1
    fi
    echo "all $count brokers serve, and every replica is in sync"
}

# For `node-agent roll`: prints the id of the node with the active controller.
leader_node() {
    local id ip active
    nodes_are_the_members >&2 || return
    while read -r id ip; do
        active=$(controllers "$ip" | sed -n 's/ .* Leader$//p') || continue
        if [[ $active ]]; then
            members | sed -n "${active}s/ .*//p"
            return 0
        fi
    done < <(members)
    echo "no controller is active" >&2
    return 1
}

# --- A node without data ----------------------------------------------------------------------------------------------------

# Kafka writes this file when a folder is formatted, and starts without it nowhere.
has_data() { [[ -e $DATA/meta.properties ]]; }

data_value() { sed -n "s/^$1=//p" "$DATA/meta.properties"; }

# Prints new or existing; fails where nothing must be begun.
state_without_data() {
    local id=$1 decision='' known
    [[ ! -e $DECISION ]] || decision=$(tr -d '[:space:]' <"$DECISION")
    known=$(known_to_others "$id")
    case $decision in
        new) echo new; return ;;
        rejoin)
            if [[ $known == removed ]]; then echo existing; return; fi
            echo "$DECISION says rejoin, but $(why_not_yet "$id" "$known")" >&2 ;;
        '')
            # Until all the controllers of a new cluster have joined, it knows them by their first configuration alone.
            if [[ ! -e $IDENTITY && $known =~ ^(nothing|awaited)$ ]] && new_cluster_may_begin; then echo new; return; fi ;;
        *) echo "$DECISION says \"$decision\": it must be rejoin or new" >&2 ;;
    esac
    data_is_gone "$id" "$known"
}

# What the other nodes know of this one: "joined" where its broker has registered before, "awaited" where its controller has a vote
# and its broker has never been seen, "leads" where a partition waits for it, "removed" where it has neither a vote nor such a
# partition, "nothing" where nobody answers.
known_to_others() {
    local id=$1 other ip text
    while read -r other ip; do
        [[ $other != "$id" ]] || continue
        text=$(controllers "$ip") || continue
        if grep -Eq "^$(number "$id") .* (Leader|Follower)$" <<<"$text"; then
            text=$(brokers "$ip") || continue
            if grep -Eq "^$(number "$id")[[:space:]]" <<<"$text"; then echo joined; else echo awaited; fi
        else
            text=$(topics "$ip") || continue
            if [[ $(inherited_by "$(number "$id")" <<<"$text") ]]; then echo leads; else echo removed; fi
        fi
        return 0
    done < <(members)
    echo nothing
}

why_not_yet() {
    case $2 in
        nothing) echo "no other node answers" ;;
        leads) echo "Kafka may let node $(number "$1") lead partitions whose data it no longer has" ;;
        *) echo "node $(number "$1") still is a controller" ;;
    esac
}

data_is_gone() {
    local id=$1 known=$2 other ip inherited topic partition directory
    while read -r other ip; do [[ $other == "$id" ]] || ! listens "$ip" || break; done < <(members)
    {
        echo "the volume at ${MOUNT_PATH:-} holds no data of the cluster $CLUSTER, and none may be begun" \
            "(NEW_CLUSTER_BEFORE=$NEW_CLUSTER_BEFORE): the data of node $id is gone. Nothing was started."
        if [[ $known == nothing ]]; then
            echo "No other node answers. Bring those up first that have their data."
        else
            # Without an answer the rest of the message still holds.
            inherited=$(topics "$ip" | inherited_by "$(number "$id")") || true
            if [[ $inherited ]]; then
                echo "Partitions without a leader wait for what it had. Bring the others up first. To let one of those lead (see" \
                    "docs/clusters/kafka.md for what that can lose):"
                while read -r topic partition; do
                    echo "  kafka-leader-election.sh --bootstrap-server $ip:$CLIENT_PORT --election-type unclean --topic $topic" \
                        "--partition $partition"
                done <<<"$inherited"
            fi
            echo "To take node $id back in, empty:"
            if [[ $known =~ ^(joined|awaited)$ ]]; then
                directory=$(controllers "$ip" | sed -n "s/^$(number "$id") \([^ ]*\) .*/\1/p")
                echo "  kafka-metadata-quorum.sh --bootstrap-server $ip:$CLIENT_PORT remove-controller" \
                    "--controller-id $(number "$id") --controller-directory-id $directory"
            fi
            echo "then on this node: echo rejoin > $DECISION; node-agent retry"
        fi
        echo "To begin a new, empty cluster instead, on every node: echo new > $DECISION; node-agent retry"
    } >&2
    return 1
}

# Formats the folder of the data: with the controllers of a new cluster, the same on every node, or with none, to be added later.
format() {
    local id ip controllers='' said
    while read -r id ip; do
        controllers+=",$(number "$id")@$ip:$CONTROLLER_PORT:$(uuid "$CLUSTER $id")"
    done < <(members)
    if [[ $1 == new ]]; then set -- --initial-controllers "${controllers#,}"; else set -- --no-initial-controllers; fi
    said=$(setpriv --reuid="$RUN_AS" --regid="$(id -g "$RUN_AS")" --init-groups "${TOOL[@]}" \
        kafka.tools.StorageTool format -t "$(uuid "$CLUSTER")" -c "$CONFIG" "$@" </dev/null 2>&1) && return 0
    echo "$DATA is not formatted: $said" >&2
    return 1
}

# An id as Kafka draws them, from a text: 16 bytes as base64 for URLs.
uuid() {
    local sum
    sum=$(printf %s "$1" | md5sum)
    # shellcheck disable=SC2059 # the bytes are written as escapes
    printf "$(sed -E 's/^(.{32}).*/\1/; s/../\\x&/g' <<<"$sum")" | base64 | tr '+/' '-_' | tr -d '='
}

# --- What Kafka says --------------------------------------------------------------------------------------------------------

# Kafka's number of a node: its place in MEMBERS.
number() { members | grep -n "^$1 " | cut -d : -f 1; }

# The tools are short-lived: a simple collector and the first compiler alone take half the processor time.
TOOL=("$JAVA" -Xmx128m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -cp "$CLASS_PATH")

# tool ADDRESS CLASS ARGUMENT…: one of Kafka's tools, if the node at this address serves.
tool() { listens "$1" && timeout 30 "${TOOL[@]}" "org.apache.kafka.tools.$2" "${@:3}" </dev/null 2>/dev/null; }

# Whether a server takes connections there. Kafka's tools try for a minute.
listens() { timeout 3 bash -c "exec 3<>/dev/tcp/$1/$CLIENT_PORT" 2>/dev/null; }

quorum() { tool "$1" MetadataQuorumCommand --bootstrap-server "$1:$CLIENT_PORT" "${@:2}"; }

# The controllers as the node at this address tells them, a line each: number, directory, how many records it is behind, and whether it
# is Leader, Follower or Observer (without a vote).
controllers() {
    quorum "$1" describe --replication | tr -s '[:blank:]' ' ' |
        sed -En 's/^([0-9]+) ([^ ]+) [0-9-]+ ([0-9-]+) .* ([A-Z][a-z]+) ?$/\1 \2 \3 \4/p'
}

topics() { tool "$1" TopicCommand --bootstrap-server "$1:$CLIENT_PORT" --describe "${@:2}"; }

# All brokers that are registered, also those that are fenced: kept from serving by the controllers.
brokers() { tool "$1" ClusterTool list-endpoints --bootstrap-server "$1:$CLIENT_PORT" --include-fenced-brokers; }

# Reads a partition's line in the description of the topics. Sets TOPIC, PARTITION and LEADER (none where there is none), and as
# lists with commas around: ASSIGNED, its replicas; FOLLOWING, those in sync; HEIRS, which Kafka lets lead without an unclean election;
# and LATER_HEIRS, which it may let lead when those are given up.
read_partition() {
    local pattern='Topic: ([^[:space:]]+)[[:space:]]+Partition: ([0-9]+)[[:space:]]+Leader: ([^[:space:]]+)[[:space:]]+' eligible='' last=''
    pattern+='Replicas: ([0-9,]+)[[:space:]]+Isr: ?([0-9,]*)(.*)'
    [[ $1 =~ $pattern ]] || return 1
    TOPIC=${BASH_REMATCH[1]} PARTITION=${BASH_REMATCH[2]} LEADER=${BASH_REMATCH[3]}
    ASSIGNED=,${BASH_REMATCH[4]}, FOLLOWING=,${BASH_REMATCH[5]},
    # Elr: the eligible leader replicas. Before 4.1 there are none.
    pattern='[[:space:]]Elr: ?([0-9,]*).*LastKnownElr: ?([0-9,]*)'
    [[ ! ${BASH_REMATCH[6]} =~ $pattern ]] || eligible=${BASH_REMATCH[1]} last=${BASH_REMATCH[2]}
    HEIRS=$FOLLOWING,$eligible, LATER_HEIRS=$FOLLOWING,$eligible,$last,
    [[ $HEIRS == *[0-9]* ]] || HEIRS=$LATER_HEIRS
}

# Whether this node has joined and is in sync; otherwise sets `lacks`. Sets `lacking` to the partitions of all nodes that lack replicas.
serves() {
    local id=$1 ip=$2 text own lag status behind
    own=$(number "$id")
    if ! identity_is "$(data_value directory.id)"; then
        lacks="the data of node $id is $(data_value directory.id), and the volume's identity is of another one: $(tr '\n' ' ' <"$IDENTITY")"
    elif ! text=$(controllers "$ip"); then
        lacks="node $id does not answer at $ip:$CLIENT_PORT yet"
    elif ! read -r _ _ lag status < <(grep "^$own " <<<"$text"); then
        lacks="the controllers do not know node $own yet"
    elif (( lag < 0 || lag > MAX_LAG )); then
        lacks="the controller of node $id is $lag records behind"
    elif [[ $status == Observer ]]; then
        # Refused while it has not caught up: it is asked again in the next round.
        add_controller "$ip" || true
        lacks="node $id is no controller yet"
    elif ! lacking=$(topics "$ip" --under-replicated-partitions); then
        lacks="node $id does not describe its topics yet"
    elif behind=$(out_of_sync "$own" <<<"$lacking"); then
        lacks="node $id is not in sync with $behind"
    else
        return 0
    fi
    return 1
}

# Gives a node that was taken back in its vote.
add_controller() { quorum "$1" --command-config "$CONFIG" add-controller; }

# Of the partitions that are described, prints those that a broker should have in sync and has not; fails where there is none. What
# waits for a leader without being this broker's to lead is not counted: the broker can do nothing about it.
out_of_sync() {
    local line found=()
    while read -r line; do
        if ! read_partition "$line" || [[ $ASSIGNED != *,$1,* || $FOLLOWING == *,$1,* ]]; then continue; fi
        [[ $LEADER == none && $HEIRS != *,$1,* ]] || found+=("$TOPIC-$PARTITION")
    done
    (( ${#found[@]} )) && some "${found[@]}"
}

# Of the partitions that are described, prints "TOPIC PARTITION" of those without a leader that a broker may lead when it is back. Without
# its data it would be empty, and the other replicas would follow it.
inherited_by() {
    local line
    while read -r line; do
        if read_partition "$line" && [[ $LEADER == none && $LATER_HEIRS == *,$1,* ]]; then echo "$TOPIC $PARTITION"; fi
    done
}

# Adds to `faults` what the metadata quorum shows.
check_controllers() {
    local text node lag status voters=0 active=0
    if ! text=$(controllers "$1"); then
        faults+=("the metadata quorum cannot be described")
        return
    fi
    while read -r node _ lag status; do
        [[ $status =~ ^(Leader|Follower)$ ]] || continue
        voters=$((voters + 1))
        [[ $status == Follower ]] || active=$((active + 1))
        (( lag >= 0 && lag <= MAX_LAG )) || faults+=("controller $node is $lag records behind")
    done <<<"$text"
    (( voters == $2 )) || faults+=("the metadata quorum has $voters controllers, and the settings name $2")
    (( active )) || faults+=("no controller is active")
}

# Adds to `faults` the nodes whose brokers are not registered or fenced: one that starts, recovers its log or is being shut down.
check_brokers() {
    local text id ip
    if ! text=$(brokers "$1"); then
        faults+=("the brokers cannot be listed")
        return
    fi
    while read -r id ip; do
        grep -Eq "^$(number "$id")[[:space:]]+${ip//./\\.}[[:space:]]+${CLIENT_PORT}[[:space:]].*[[:space:]]unfenced" <<<"$text" ||
            faults+=("the broker of $id is fenced, or not registered at $ip:$CLIENT_PORT")
    done < <(members)
}

# Adds to `faults` the partitions that lack replicas or a leader. A topic with no more replicas than must be in sync loses its writers
# whenever a node goes: it is named, and holds nothing up, because that never changes.
check_partitions() {
    local text line least name replicas in_sync behind=() gone=() few=()
    if ! text=$(topics "$1"); then
        faults+=("the topics cannot be described")
        return
    fi
    while read -r line; do
        if read_partition "$line"; then
            name=$TOPIC-$PARTITION replicas=${ASSIGNED//[!,]/} in_sync=${FOLLOWING//[!,]/}
            if [[ $LEADER == none ]]; then
                gone+=("$name")
            elif (( ${#in_sync} < ${#replicas} )); then
                behind+=("$name")
            elif (( ${#replicas} - 1 <= least )); then
                few+=("$name")
            fi
        else
            # A topic's own line. Without the setting Kafka's default holds.
            least=1
            [[ ! $line =~ min\.insync\.replicas=([0-9]+) ]] || least=${BASH_REMATCH[1]}
        fi
    done <<<"$text"
    (( ! ${#gone[@]} )) || faults+=("without a leader: $(some "${gone[@]}")")
    (( ! ${#behind[@]} )) || faults+=("without all their replicas: $(some "${behind[@]}")")
    (( ! ${#few[@]} )) || echo "their writers stop while one of their nodes is away: $(some "${few[@]}")"
}

# At most ten of them.
some() { echo "${*:1:10}$( (( $# <= 10 )) || echo " and $(( $# - 10 )) more")"; }

# What other nodes lack.
print_absent() {
    local id ip line leaderless=()
    while read -r id ip; do
        [[ $id == "$1" ]] || listens "$ip" || echo "node $id does not serve yet; this node is not held up by it"
    done < <(members)
    while read -r line; do
        if read_partition "$line" && [[ $LEADER == none ]]; then leaderless+=("$TOPIC-$PARTITION"); fi
    done <<<"$lacking"
    (( ! ${#leaderless[@]} )) || echo "without a leader until another node is back with its data: $(some "${leaderless[@]}")"
}

configuration() {
    local id=$1 ip=$2 member address controllers=''
    while read -r member address; do controllers+=,$address:$CONTROLLER_PORT; done < <(members)
    cat <<END
# Written by the node's hook at its launch.
process.roles=broker,controller
node.id=$(number "$id")
controller.quorum.bootstrap.servers=${controllers#,}
listeners=PLAINTEXT://$ip:$CLIENT_PORT,CONTROLLER://$ip:$CONTROLLER_PORT
advertised.listeners=PLAINTEXT://$ip:$CLIENT_PORT,CONTROLLER://$ip:$CONTROLLER_PORT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
controller.listener.names=CONTROLLER
log.dirs=$DATA
default.replication.factor=$REPLICAS
min.insync.replicas=$IN_SYNC
offsets.topic.replication.factor=$REPLICAS
transaction.state.log.replication.factor=$REPLICAS
transaction.state.log.min.isr=$IN_SYNC
share.coordinator.state.topic.replication.factor=$REPLICAS
share.coordinator.state.topic.min.isr=$IN_SYNC
$EXTRA_CONFIG
END
}

# --- The same in every hook of this folder; tests/shipped_hooks.rs compares ---------------------------------------------------

# Prints "ID ADDRESS" for each node of the settings.
members() {
    local member
    for member in $MEMBERS; do echo "${member%%=*} ${member#*=}"; done
}

is_member() {
    local id ip
    while read -r id ip; do
        [[ $id != "$1" || $ip != "$2" ]] || return 0
    done < <(members)
    echo "MEMBERS of the hook script does not have $1=$2: \"$MEMBERS\"" >&2
    return 1
}

# Whether the nodes that are rolled are those of the settings. ROLL_NODES is a JSON list of flat objects.
nodes_are_the_members() {
    local rest=${ROLL_NODES:?is set by node-agent roll} object id ip rolled=''
    while [[ $rest =~ \{([^{}]*)\}(.*) ]]; do
        object=${BASH_REMATCH[1]} rest=${BASH_REMATCH[2]} ip=
        [[ $object =~ \"id\":\ *\"([^\"]*)\" ]] || continue
        id=${BASH_REMATCH[1]}
        if [[ $object =~ \"ip\":\ *\"([^\"]*)\" ]]; then ip=${BASH_REMATCH[1]}; fi
        # Without the permission to describe instances an address is null.
        [[ $ip ]] || ip=$(members | sed -n "s/^$id //p")
        rolled+="$id $ip"$'\n'
    done
    [[ $(sort <<<"$rolled" | sed '/^$/d') == "$(members | sort)" ]] && return 0
    echo "the nodes of the roll are not those of MEMBERS: \"$MEMBERS\"; ROLL_NODES=$ROLL_NODES"
    return 1
}

new_cluster_may_begin() {
    local until
    [[ $NEW_CLUSTER_BEFORE ]] || return 1
    if ! until=$(date -d "$NEW_CLUSTER_BEFORE" +%s); then
        echo "NEW_CLUSTER_BEFORE=$NEW_CLUSTER_BEFORE is no time such as 2026-11-27T12:00:00Z" >&2
        return 1
    fi
    (( $(date +%s) < until ))
}

# Refuses the volume of another node.
data_is_this_nodes() {
    [[ -e $IDENTITY ]] || return 0
    if grep -qxF "node=$1" "$IDENTITY" && grep -qxF "cluster=$CLUSTER" "$IDENTITY"; then return 0; fi
    echo "the volume is not the one of node $1 of the cluster $CLUSTER: $IDENTITY says $(tr '\n' ' ' <"$IDENTITY")" >&2
    return 1
}

# Whether the volume's member is this one, or not recorded yet. A person's decision replaces what was recorded.
identity_is() {
    [[ ! -e $IDENTITY || -e $DECISION ]] || grep -qxF "member=$1" "$IDENTITY"
}

write_identity() {
    write_if_changed "$IDENTITY" "cluster=$CLUSTER"$'\n'"node=$1"$'\n'"member=$2"
}

# At once or not at all, so that a kill leaves no half of a file.
write_if_changed() {
    [[ ! -e $1 || $(<"$1") != "$2" ]] || return 0
    mkdir -p "$(dirname "$1")"
    printf '%s\n' "$2" >"$1.new"
    sync "$1.new"
    mv "$1.new" "$1"
}

# Prints a line, if the last one was ten seconds ago.
tell() {
    (( SECONDS >= ${TOLD:-0} )) || return 0
    TOLD=$((SECONDS + 10))
    echo "$1"
}

distinct() { printf '%s\n' "$@" | sort -u | wc -l; }

# The server is a unit of systemd's where systemd runs, and a process of its own elsewhere.
under_systemd() { [[ -d /run/systemd/system ]]; }

PID_FILE=/run/$NAME.pid
LOG=/var/log/$NAME.log

server_runs() {
    if under_systemd; then
        [[ $(systemctl is-active "$NAME.service") =~ ^(active|activating|reloading|deactivating)$ ]]
    else
        # A process id may be another process's by now; a zombie has no command line.
        [[ -s $PID_FILE ]] && tr '\0' '\n' 2>/dev/null <"/proc/$(<"$PID_FILE")/cmdline" | grep -qxF -e "${SERVER[${#SERVER[@]} - 1]}"
    fi
}

# Starts the server, or starts it again if its configuration has changed since.
start_server() {
    local wanted
    wanted=$(cat "$CONFIG" && printf '%q ' "${SERVER[@]}")
    if server_runs && [[ $(cat "/run/$NAME.started" 2>/dev/null) == "$wanted" ]]; then
        echo "the server runs with this configuration"
        return 0
    fi
    ! server_runs || stop_server || return
    if under_systemd; then
        write_if_changed "/etc/systemd/system/$NAME.service" "$(unit "$1")"
        systemctl daemon-reload
        # Takes away what a package has enabled: the server starts with the volume alone.
        systemctl reenable --quiet "$NAME.service"
        # It fails for a unit that is not loaded, which has nothing to be reset.
        systemctl reset-failed "$NAME.service" 2>/dev/null || true
        systemctl start --no-block "$NAME.service"
    else
        # A session of its own, which outlives the hook.
        setsid setpriv --reuid="$RUN_AS" --regid="$(id -g "$RUN_AS")" --init-groups "${SERVER[@]}" </dev/null >>"$LOG" 2>&1 &
        echo $! >"$PID_FILE"
    fi
    printf '%s\n' "$wanted" >"/run/$NAME.started"
}

# Ends the server cleanly, however long that takes: the agent bounds the call.
stop_server() {
    if under_systemd; then
        systemctl stop "$NAME.service"
        return
    fi
    # It may have ended by itself since it was looked at.
    kill "$(<"$PID_FILE")" || true
    while server_runs; do
        tell "waits: the server is stopping"
        sleep 0.2
    done
    echo "the server has stopped"
}

# Whether the server has ended by itself; prints its last words.
server_has_failed() {
    if under_systemd; then
        # Restarted again and again. Systemd before 235 does not count.
        (( $(systemctl show -p NRestarts "$NAME.service" | sed 's/NRestarts=//;s/^$/0/') >= 3 )) || return 1
        journalctl -u "$NAME.service" -n 100 --no-pager -o cat | last_words
    else
        ! server_runs || return 1
        last_words <"$LOG"
    fi
    echo "the server has ended by itself; its last words are above" >&2
}

# Without Java's stack frames, which leave no room for the reason.
last_words() { sed $'/^\tat /d' | tail -n 10; }

unit() {
    cat <<END
# Written by the node's hook at its launch.
[Unit]
Description=$NAME, node $1 of the cluster $CLUSTER
AssertPathIsMountPoint=$MOUNT_PATH
RequiresMountsFor=$MOUNT_PATH
PartOf=node-agent-mounted.target
Wants=network-online.target
After=network-online.target

[Service]
User=$RUN_AS
ExecStart=${SERVER[*]}
Restart=on-failure
RestartSec=5
SuccessExitStatus=143
LimitNOFILE=65536

[Install]
WantedBy=node-agent-mounted.target
END
}
