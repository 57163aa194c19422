# shellcheck shell=bash
# Hooks of an etcd cluster, one node an Auto Scaling group. Run with etcd 3.4.23 (Debian 12), three nodes, in network namespaces
# and without systemd, by tests/cluster_etcd.rs; and with systemd on a machine that boots, one node, by tests/vm/clusters.rs.
#
# Needs etcd, etcdctl 3.4 or later, bash, coreutils, grep and sed. docs/clusters/etcd.md explains the settings.

# --- Settings: the same on every node and on the operator's machine ---------------------------------------------------------

# The nodes, ID=ADDRESS each: what the configuration has as [node] id and ip.
MEMBERS="00=10.0.1.10 01=10.0.1.11 02=10.0.1.12"
# The cluster's name.
CLUSTER="etcd"
# Until then a volume that holds nothing begins a new cluster, for example 2026-11-27T12:00:00Z: an hour after the first apply.
# Set it once and never change it. Empty: never.
NEW_CLUSTER_BEFORE=""
# The server, and the user that runs it. The package makes the user.
ETCD="/usr/bin/etcd"
RUN_AS="etcd"
# The folder of the data, below the volume's mount point.
FOLDER="etcd"
# The ports for clients and for the other nodes.
CLIENT_PORT=2379
PEER_PORT=2380
# More lines for etcd's configuration file, in YAML.
EXTRA_CONFIG=""
# How many log entries a member may be behind the furthest one for check_cluster to pass.
MAX_LAG=1000

# --- Where things are -------------------------------------------------------------------------------------------------------

NAME=etcd
CONFIG=/etc/etcd/node.yml
# What a person has decided about a node whose data is gone: rejoin, or new.
DECISION=/etc/node-agent/$NAME-data-is-gone
DATA=${MOUNT_PATH:-}/$FOLDER
# Whose data the volume holds. Beside the data, so that deleted data is told from a blank volume.
IDENTITY=${MOUNT_PATH:-}/$FOLDER.identity
SERVER=("$ETCD" --config-file="$CONFIG")

# --- The five functions -----------------------------------------------------------------------------------------------------

# Writes the server's configuration and starts it. Starts nothing where the data is not this node's, or is gone.
configure_cluster_node() {
    local id=$1 ip=$2 state
    is_member "$id" "$ip" || return
    data_is_this_nodes "$id" || return
    if has_data; then
        # etcd reads it only without data. Kept as it was, so that the configuration does not change by itself; a new instance has none.
        state=$(sed -n 's/^initial-cluster-state: //p' "$CONFIG" 2>/dev/null) || true
        state=${state:-existing}
    else
        state=$(state_without_data "$id" "$ip") || return
        echo "node $id has no data yet: it begins in a cluster that is $state"
    fi
    install -d -o "$RUN_AS" -g "$(id -gn "$RUN_AS")" -m 0700 "$DATA"
    write_if_changed "$CONFIG" "$(configuration "$id" "$ip" "$state")"
    start_server "$id"
}

# Waits until this node's member has joined and serves a read that the quorum has confirmed: it has then applied everything that
# was committed before. What the others lack is only printed.
wait_for_healthy_cluster() {
    local id=$1 ip=$2 lacks=
    until serves "$id" "$ip"; do
        tell "waits: $lacks"
        server_has_failed && return 1
        sleep 1
    done
    write_identity "$id" "$MEMBER"
    rm -f "$DECISION"
    echo "node $id is member $(hex "$MEMBER") and in sync at log entry $APPLIED"
    print_absent "$id"
}

# Hands leadership over, and stops the server. A hand-over that fails does not keep the node: the others then elect a leader.
drain_cluster_node() {
    local id=$1 ip=$2
    if ! server_runs; then
        echo "the server does not run: nothing to drain"
        return 0
    fi
    if read_status "$ip" && [[ $LEADER == "$MEMBER" ]]; then
        move_leader "$id" "$ip" || echo "leadership was not handed over; the others elect a leader when this node stops"
    fi
    stop_server
}

# For `node-agent roll`: passes only if every node serves and is in sync, so that the quorum bears the loss of any one.
check_cluster() {
    local id ip at count=0 furthest=0 applied='' leaders=() clusters=() faults=()
    nodes_are_the_members || return
    while read -r id ip; do
        count=$((count + 1))
        if ! read_status "$ip"; then
            faults+=("$id does not answer at $(client_url "$ip")")
            continue
        fi
        leaders+=("$LEADER") clusters+=("$CLUSTER_ID") applied+="$id $APPLIED"$'\n'
        (( INDEX <= furthest )) || furthest=$INDEX
        [[ $LEARNER == false ]] || faults+=("$id is a learner, without a vote")
        [[ -z $ERRORS ]] || faults+=("$id says: $ERRORS")
        ctl "$ip" endpoint health >/dev/null 2>&1 || faults+=("$id does not serve a read that the quorum confirms")
    done < <(members)
    while read -r id at; do
        (( furthest - at <= MAX_LAG )) || faults+=("$id is $((furthest - at)) log entries behind")
    done < <(printf '%s' "$applied")
    [[ $(distinct "${leaders[@]-}") == 1 && ${leaders[0]-0} != 0 ]] || faults+=("the nodes do not agree on one leader")
    [[ $(distinct "${clusters[@]-}") == 1 ]] || faults+=("the nodes are not of one cluster")
    check_members "$count"
    if (( ${#faults[@]} )); then
        printf '%s\n' "${faults[@]}"
        return 1
    fi
    echo "all $count nodes serve and are in sync"
}

# For `node-agent roll`: prints the id of the node that leads.
leader_node() {
    local id ip
    nodes_are_the_members >&2 || return
    while read -r id ip; do
        if read_status "$ip" && [[ $LEADER == "$MEMBER" ]] && ctl "$ip" endpoint health >/dev/null 2>&1; then
            echo "$id"
            return 0
        fi
    done < <(members)
    echo "no node leads" >&2
    return 1
}

# --- A node without data ----------------------------------------------------------------------------------------------------

has_data() { compgen -G "$DATA/member/wal/*.wal" >/dev/null; }

# Prints new or existing; fails where nothing must be begun.
state_without_data() {
    local id=$1 ip=$2 decision='' known
    [[ ! -e $DECISION ]] || decision=$(tr -d '[:space:]' <"$DECISION")
    known=$(known_to_others "$id" "$ip")
    case $decision in
        new) echo new; return ;;
        rejoin)
            if [[ $known == awaited ]]; then echo existing; return; fi
            echo "$DECISION says rejoin, but the others do not await a new member at $(peer_url "$ip")" >&2 ;;
        '')
            # A cluster that serves and does not know this node is another one.
            if [[ ! -e $IDENTITY && $known =~ ^(nothing|awaited)$ ]] && new_cluster_may_begin; then echo new; return; fi ;;
        *) echo "$DECISION says \"$decision\": it must be rejoin or new" >&2 ;;
    esac
    data_is_gone "$id" "$ip" "$known"
}

# What the other nodes know of this one's address: "joined" by a member that has served before, "awaited" by one that never has,
# "unknown" to a cluster that serves, "nothing" where nobody answers.
known_to_others() {
    local id=$1 ip=$2 other address list member peers clients rest
    while read -r other address; do
        [[ $other != "$id" ]] || continue
        list=$(ctl "$address" member list 2>/dev/null) || continue
        while IFS=, read -r member _ _ peers clients rest; do
            [[ $peers == " $(peer_url "$ip")" ]] || continue
            # A member's client addresses become known when it serves for the first time.
            if [[ ${clients// /} ]]; then echo joined; else echo awaited; fi
            return 0
        done <<<"$list"
        echo unknown
        return 0
    done < <(members)
    echo nothing
}

data_is_gone() {
    local id=$1 ip=$2 known=$3 other address
    while read -r other address; do [[ $other == "$id" ]] || break; done < <(members)
    {
        echo "the volume at ${MOUNT_PATH:-} holds no data of the cluster $CLUSTER, and none may be begun" \
            "(NEW_CLUSTER_BEFORE=$NEW_CLUSTER_BEFORE): the data of node $id is gone. Nothing was started."
        case $known in
            nothing) echo "No other node answers. Bring those up first that have their data." ;;
            awaited) echo "The others await node $id as a new member. On this node: echo rejoin > $DECISION; node-agent retry" ;;
            *)
                echo "To take node $id back in, empty, on any machine with etcdctl:"
                [[ $known != joined ]] || echo "  etcdctl --endpoints=$(client_url "$address") member remove" \
                    "$(member_at "$address" "$(peer_url "$ip")")"
                echo "  etcdctl --endpoints=$(client_url "$address") member add $id --peer-urls=$(peer_url "$ip")"
                echo "(repeat one that is refused with \"unhealthy cluster\": the members must have been connected for 5 s)"
                echo "then on this node: echo rejoin > $DECISION; node-agent retry" ;;
        esac
        echo "To begin a new, empty cluster instead, on every node: echo new > $DECISION; node-agent retry"
    } >&2
    return 1
}

# The id of the member with this address of its own, as a node tells it.
member_at() {
    local member peers rest
    while IFS=, read -r member _ _ peers rest; do
        if [[ $peers == " $2" ]]; then echo "$member"; fi
    done < <(ctl "$1" member list 2>/dev/null)
}

# --- What etcd says ---------------------------------------------------------------------------------------------------------

client_url() { echo "http://$1:$CLIENT_PORT"; }
peer_url() { echo "http://$1:$PEER_PORT"; }

# ctl ADDRESS ARGUMENT…: etcdctl, asking this node alone.
ctl() {
    timeout 10 etcdctl --endpoints="$(client_url "$1")" --dial-timeout=2s --command-timeout=3s "${@:2}" </dev/null
}

# Sets MEMBER, LEADER, CLUSTER_ID, INDEX, APPLIED, LEARNER and ERRORS from the status of a node.
read_status() {
    local text
    text=$(ctl "$1" endpoint status -w fields 2>/dev/null) || return 1
    MEMBER=$(field MemberID) && LEADER=$(field Leader) && CLUSTER_ID=$(field ClusterID) && INDEX=$(field RaftIndex) &&
        APPLIED=$(field RaftAppliedIndex) && LEARNER=$(field IsLearner) && ERRORS=$(field Errors) || return 1
    ERRORS=${ERRORS#[} ERRORS=${ERRORS%]}
}

field() {
    local line=$'"'"$1"$'" : ([^\n]*)'
    [[ $text =~ $line ]] && echo "${BASH_REMATCH[1]}"
}

hex() { printf '%x' "$1"; }

# Whether this node has joined with its identity and is in sync; otherwise sets `lacks`.
serves() {
    local id=$1 ip=$2 alarms
    if ! read_status "$ip"; then
        lacks="node $id does not answer at $(client_url "$ip") yet"
    elif [[ $LEADER == 0 ]]; then
        lacks="node $id knows no leader; answering: $(answering)"
    elif ! identity_is "$MEMBER"; then
        lacks="node $id is member $(hex "$MEMBER"), and the volume's identity is of another one: $(tr '\n' ' ' <"$IDENTITY")"
    elif [[ $LEARNER != false ]]; then
        lacks="node $id is a learner, without a vote"
    elif ! ctl "$ip" endpoint health >/dev/null 2>&1; then
        lacks="node $id does not serve a read that the quorum confirms; answering: $(answering)"
    elif ! alarms=$(ctl "$ip" alarm list 2>/dev/null); then
        lacks="node $id does not tell its alarms"
    elif [[ $alarms == *"memberID:$MEMBER "* ]]; then
        lacks="node $id has raised an alarm: $alarms"
    else
        return 0
    fi
    return 1
}

# The ids of the nodes that answer.
answering() {
    local id ip all=''
    while read -r id ip; do
        if ctl "$ip" endpoint status >/dev/null 2>&1; then all+=" $id"; fi
    done < <(members)
    all=${all# }
    echo "${all:-none}"
}

print_absent() {
    local id ip
    while read -r id ip; do
        [[ $id != "$1" ]] || continue
        ctl "$ip" endpoint health >/dev/null 2>&1 || echo "node $id does not serve yet; this node is not held up by it"
    done < <(members)
}

# Adds to `faults` what the list of the members and the alarms show, as the first node tells them that answers.
check_members() {
    local id ip list clients rest listed=0 alarms
    while read -r id ip; do
        list=$(ctl "$ip" member list 2>/dev/null) || continue
        alarms=$(ctl "$ip" alarm list 2>/dev/null) || continue
        while IFS=, read -r _ _ _ _ clients rest; do
            listed=$((listed + 1))
            [[ ${clients// /} ]] || faults+=("a member that was added has never served")
        done <<<"$list"
        (( listed == $1 )) || faults+=("the cluster has $listed members, and the settings name $1")
        [[ -z $alarms ]] || faults+=("an alarm is raised: $alarms")
        return 0
    done < <(members)
    faults+=("no node tells the members and the alarms")
}

# Makes the furthest of the other members the leader.
move_leader() {
    local id ip best='' best_id='' furthest=-1
    while read -r id ip; do
        [[ $id != "$1" ]] || continue
        if read_status "$ip" && [[ $LEARNER == false ]] && (( APPLIED > furthest )); then
            best=$MEMBER best_id=$id furthest=$APPLIED
        fi
    done < <(members)
    [[ $best ]] || return 1
    ctl "$2" move-leader "$(hex "$best")" >/dev/null || return 1
    echo "node $best_id leads now"
}

configuration() {
    local id=$1 ip=$2 state=$3 cluster='' member address
    while read -r member address; do cluster+=,$member=$(peer_url "$address"); done < <(members)
    cat <<END
# Written by the node's hook at its launch.
name: "$id"
data-dir: $DATA
listen-peer-urls: $(peer_url "$ip")
initial-advertise-peer-urls: $(peer_url "$ip")
listen-client-urls: $(client_url "$ip"),$(client_url 127.0.0.1)
advertise-client-urls: $(client_url "$ip")
initial-cluster: ${cluster#,}
initial-cluster-token: $CLUSTER
initial-cluster-state: $state
# A member that comes back does not disturb the leader.
pre-vote: true
# On by default, but off for etcd 3.4 where there is a configuration file.
enable-grpc-gateway: true
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
