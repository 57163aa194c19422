# shellcheck shell=bash
# Hooks of a ZooKeeper ensemble, one node an Auto Scaling group. Run with ZooKeeper 3.8.0 (Debian 12, Java 17), three nodes, in
# network namespaces and without systemd, by tests/cluster_zookeeper.rs. Where systemd runs, only etcd's hook was tried, which
# writes the same unit.
#
# Needs ZooKeeper 3.6 or later, bash, coreutils, grep and sed. docs/clusters/zookeeper.md explains the settings.

# --- Settings: the same on every node and on the operator's machine ---------------------------------------------------------

# The nodes, ID=ADDRESS each: what the configuration has as [node] id and ip. The first one is ZooKeeper's server 1, and so on:
# never change the order.
MEMBERS="00=10.0.1.10 01=10.0.1.11 02=10.0.1.12"
# The cluster's name.
CLUSTER="zookeeper"
# Until then a volume that holds nothing begins a new cluster, for example 2026-11-27T12:00:00Z: an hour after the first apply.
# Set it once and never change it. Empty: never.
NEW_CLUSTER_BEFORE=""
# The server: Java, its options, the class path; and the user that runs it. The package makes the user.
JAVA="/usr/bin/java"
JAVA_OPTIONS="-Xmx512m"
CLASS_PATH="/usr/share/java/zookeeper.jar:/usr/share/java/slf4j-simple.jar"
RUN_AS="zookeeper"
# The folder of the data, below the volume's mount point.
FOLDER="zookeeper"
# The ports for clients, for followers and for elections.
CLIENT_PORT=2181
PEER_PORT=2888
ELECTION_PORT=3888
# Milliseconds of a tick. A follower that is silent for five ticks is given up.
TICK_TIME=2000
# What may be asked without a session. srvr and mntr are what the checks below ask.
FOUR_LETTER_WORDS="srvr,mntr"
# More lines for zoo.cfg.
EXTRA_CONFIG=""

# --- Where things are -------------------------------------------------------------------------------------------------------

NAME=zookeeper
CONFIG=/etc/zookeeper/node/zoo.cfg
# What a person has decided about a node whose data is gone: rejoin, or new.
DECISION=/etc/node-agent/$NAME-data-is-gone
DATA=${MOUNT_PATH:-}/$FOLDER
# Whose data the volume holds. Beside the data, so that deleted data is told from a blank volume.
IDENTITY=${MOUNT_PATH:-}/$FOLDER.identity
# Without autocreate a server without data takes no part in elections until a leader has given it the data, unless a file
# "initialize" says that there is none yet.
read -ra SERVER <<<"$JAVA $JAVA_OPTIONS -Dzookeeper.db.autocreate=false -cp $CLASS_PATH"
SERVER+=(org.apache.zookeeper.server.quorum.QuorumPeerMain "$CONFIG")

# --- The five functions -----------------------------------------------------------------------------------------------------

# Writes the server's configuration and starts it. Starts nothing where the data is not this node's, or is gone.
configure_cluster_node() {
    local id=$1 ip=$2 state=''
    is_member "$id" "$ip" || return
    data_is_this_nodes "$id" || return
    if ! has_data; then
        state=$(state_without_data "$id") || return
        echo "node $id has no data yet: it begins in a cluster that is $state"
    fi
    install -d -o "$RUN_AS" -g "$(id -gn "$RUN_AS")" -m 0750 "$DATA"
    if [[ -e $DATA/myid && $(<"$DATA/myid") != "$(number "$id")" ]]; then
        echo "$DATA/myid is $(<"$DATA/myid"), and node $id is number $(number "$id") in MEMBERS: its order was changed" >&2
        return 1
    fi
    write_if_changed "$DATA/myid" "$(number "$id")"
    if [[ $state == new ]]; then touch "$DATA/initialize"; else rm -f "$DATA/initialize"; fi
    write_if_changed "$CONFIG" "$(configuration)"
    start_server "$id"
}

# Waits until this node follows a leader, or leads, and has all that the leader had when it was asked. What the others lack is
# only printed.
wait_for_healthy_cluster() {
    local id=$1 ip=$2 lacks='' goal=''
    until serves "$id" "$ip"; do
        tell "waits: $lacks"
        server_has_failed && return 1
        sleep 1
    done
    write_identity "$id" "$(number "$id")"
    rm -f "$DECISION"
    echo "node $id is server $(number "$id"), $MODE, and in sync at transaction $ZXID"
    print_absent "$id"
}

# Stops the server. A leader cannot hand leadership over: the others elect one when it has gone.
drain_cluster_node() {
    local text
    if ! server_runs; then
        echo "the server does not run: nothing to drain"
        return 0
    fi
    if read_state "$2" && [[ $MODE == leader ]]; then echo "node $1 leads: the others elect a leader when it stops"; fi
    stop_server
}

# For `node-agent roll`: passes only if one node leads, all the others follow, and the leader counts them all in sync.
check_cluster() {
    local id ip count=0 leader='' followers=0 synced='' size='' text='' faults=()
    nodes_are_the_members || return
    while read -r id ip; do
        count=$((count + 1))
        if ! read_state "$ip"; then
            faults+=("$id does not serve at $ip:$CLIENT_PORT")
            continue
        fi
        [[ $PHASE == broadcast ]] || faults+=("$id is not in sync yet: $MODE, $PHASE")
        case $MODE in
            leader)
                [[ -z $leader ]] || faults+=("$leader and $id both lead")
                leader=$id synced=$(value zk_synced_followers) || synced=unknown
                size=$(value zk_quorum_size) || size=unknown ;;
            follower) followers=$((followers + 1)) ;;
            *) faults+=("$id is $MODE, and neither leads nor follows") ;;
        esac
    done < <(members)
    if [[ ! $leader ]]; then
        faults+=("no node leads")
    else
        (( followers == count - 1 )) || faults+=("only $followers of $((count - 1)) nodes follow")
        [[ $synced == $((count - 1)) ]] || faults+=("the leader $leader counts $synced followers in sync, not $((count - 1))")
        [[ $size == "$count" ]] || faults+=("the leader $leader knows $size voters, and the settings name $count")
    fi
    if (( ${#faults[@]} )); then
        printf '%s\n' "${faults[@]}"
        return 1
    fi
    echo "$leader leads, and $followers nodes follow in sync"
}

# For `node-agent roll`: prints the id of the node that leads.
leader_node() {
    local leader
    nodes_are_the_members >&2 || return
    if ! leader=$(leader_among "$(members)"); then
        echo "no node leads" >&2
        return 1
    fi
    echo "${leader% *}"
}

# --- A node without data ----------------------------------------------------------------------------------------------------

has_data() { compgen -G "$DATA/version-2/snapshot.*" >/dev/null || compgen -G "$DATA/version-2/log.*" >/dev/null; }

# Prints new or existing; fails where nothing must be begun.
state_without_data() {
    local id=$1 decision='' others=absent
    [[ ! -e $DECISION ]] || decision=$(tr -d '[:space:]' <"$DECISION")
    # A leader has the majority of the others behind it. It gives this node the data before this node has a vote.
    if leader_among "$(members | grep -v "^$id ")" >/dev/null; then others=serve; fi
    case $decision in
        new) echo new; return ;;
        rejoin)
            if [[ $others == serve ]]; then echo existing; return; fi
            echo "$DECISION says rejoin, but no other node leads" >&2 ;;
        '')
            if [[ ! -e $IDENTITY ]] && new_cluster_may_begin; then
                if [[ $others == serve ]]; then echo existing; else echo new; fi
                return
            fi ;;
        *) echo "$DECISION says \"$decision\": it must be rejoin or new" >&2 ;;
    esac
    {
        echo "the volume at ${MOUNT_PATH:-} holds no data of the cluster $CLUSTER, and none may be begun" \
            "(NEW_CLUSTER_BEFORE=$NEW_CLUSTER_BEFORE): the data of node $id is gone. Nothing was started."
        [[ $others == serve ]] || echo "No other node leads. Bring those up first that have their data."
        echo "To take node $id back in, empty, while the others serve, on this node:" \
            "echo rejoin > $DECISION; node-agent retry"
        echo "To begin a new, empty cluster instead, on every node: echo new > $DECISION; node-agent retry"
    } >&2
    return 1
}

# --- What ZooKeeper says ----------------------------------------------------------------------------------------------------

# ZooKeeper's number of a node: its place in MEMBERS.
number() { members | grep -n "^$1 " | cut -d : -f 1; }

# ask ADDRESS WORD: what the node answers to a four letter word.
ask() {
    # shellcheck disable=SC2016 # the inner shell expands them
    timeout 5 bash -c 'exec 3<>"/dev/tcp/$1/$2" && printf %s "$3" >&3 && cat <&3' ask "$1" "$CLIENT_PORT" "$2" \
        2>/dev/null </dev/null
}

# Sets MODE (leader, follower) and PHASE (broadcast once in sync); `value` then tells more. Fails unless the node serves: to ruok
# a node without a quorum says imok.
read_state() {
    text=$(ask "$1" mntr) && MODE=$(value zk_server_state) && PHASE=$(value zk_peer_state) || return 1
    PHASE=${PHASE##* }
}

value() {
    local line=$'\n'"$1"$'\t([^\n]*)'
    [[ $'\n'$text =~ $line ]] && echo "${BASH_REMATCH[1]}"
}

# The last transaction that a node has applied.
zxid() {
    local text line=$'\nZxid: (0x[0-9a-f]+)'
    text=$(ask "$1" srvr) && [[ $text =~ $line ]] && echo "${BASH_REMATCH[1]}"
}

# Prints "ID ADDRESS" of the node that leads, of those that are given as such lines.
leader_among() {
    local id ip text
    while read -r id ip; do
        if read_state "$ip" && [[ $MODE == leader ]]; then echo "$id $ip"; return 0; fi
    done <<<"$1"
    return 1
}

# Whether this node has joined and is in sync; otherwise sets `lacks`. `goal` is the transaction that it has to reach.
serves() {
    local id=$1 ip=$2 text leader
    if ! identity_is "$(number "$id")"; then
        lacks="node $id is server $(number "$id"), and the volume's identity is of another one: $(tr '\n' ' ' <"$IDENTITY")"
    elif ! read_state "$ip"; then
        lacks="node $id does not serve at $ip:$CLIENT_PORT yet; serving: $(serving)"
    elif [[ $MODE != leader && $MODE != follower || $PHASE != broadcast ]]; then
        lacks="node $id is not in sync yet: $MODE, $PHASE"
    elif [[ ! $goal ]] && ! { leader=$(leader_among "$(members)") && goal=$(zxid "${leader#* }"); }; then
        lacks="no node leads"
    elif ! ZXID=$(zxid "$ip") || (( ZXID < goal && (goal & 0xffffffff) != 0 )); then
        # A leader that was just elected begins to count anew, which its followers show with the next transaction.
        lacks="node $id is at transaction ${ZXID:-unknown}, and the leader was at $goal"
    else
        return 0
    fi
    return 1
}

# The ids of the nodes that serve.
serving() {
    local id ip text all=''
    while read -r id ip; do
        if read_state "$ip"; then all+=" $id"; fi
    done < <(members)
    all=${all# }
    echo "${all:-none}"
}

print_absent() {
    local id ip text
    while read -r id ip; do
        [[ $id == "$1" ]] || read_state "$ip" || echo "node $id does not serve yet; this node is not held up by it"
    done < <(members)
}

configuration() {
    local id ip
    cat <<END
# Written by the node's hook at its launch.
dataDir=$DATA
clientPort=$CLIENT_PORT
tickTime=$TICK_TIME
initLimit=10
syncLimit=5
standaloneEnabled=false
reconfigEnabled=false
admin.enableServer=false
4lw.commands.whitelist=$FOUR_LETTER_WORDS
autopurge.snapRetainCount=3
autopurge.purgeInterval=24
END
    while read -r id ip; do echo "server.$(number "$id")=$ip:$PEER_PORT:$ELECTION_PORT"; done < <(members)
    echo "$EXTRA_CONFIG"
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
