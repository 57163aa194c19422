# THIS HOOK WAS NEVER RUN AGAINST A SERVER. It is written from MongoDB's documentation (4.4 to 8.0); tests/mongodb_hook.rs runs it with
# a stand-in for mongosh that gives the documented answers. Try it on a cluster that nobody needs.
#
# Hooks of a MongoDB replica set, one node an Auto Scaling group.
#
# shellcheck shell=bash
#
# Needs mongod 4.4 or later, mongosh, bash, coreutils, grep and sed. docs/clusters/mongodb.md explains the settings.

# --- Settings: the same on every node and on the operator's machine ---------------------------------------------------------

# The nodes, ID=ADDRESS each: what the configuration has as [node] id and ip. Of a new cluster the first one begins the replica set.
MEMBERS="00=10.0.1.10 01=10.0.1.11 02=10.0.1.12"
# The cluster's name, which is the replica set's.
CLUSTER="mongodb"
# Until then a volume that holds nothing begins a new cluster, for example 2026-11-27T12:00:00Z: an hour after the first apply.
# Set it once and never change it. Empty: never.
NEW_CLUSTER_BEFORE=""
# The server, and the user that runs it. The package makes the user: mongodb of the deb, mongod of the rpm.
MONGOD="/usr/bin/mongod"
RUN_AS="mongodb"
# The shell, and its options, such as the user where the server requires one:
# (--username admin --password "$(cat /etc/mongodb/password)").
MONGOSH="/usr/bin/mongosh"
MONGOSH_OPTIONS=()
# The folder of the data, below the volume's mount point.
FOLDER="mongodb"
PORT=27017
# More lines for mongod's configuration file, in YAML.
EXTRA_CONFIG=""
# How many seconds a secondary may be behind the primary for check_cluster to pass.
MAX_LAG=10

# --- Where things are -------------------------------------------------------------------------------------------------------

NAME=mongodb
CONFIG=/etc/mongodb/node.yml
# What a person has decided about a node whose data is gone: rejoin, or new.
DECISION=/etc/node-agent/$NAME-data-is-gone
DATA=${MOUNT_PATH:-}/$FOLDER
# Whose data the volume holds. Beside the data, so that deleted data is told from a blank volume.
IDENTITY=${MOUNT_PATH:-}/$FOLDER.identity
# There as long as this node begins in a replica set that is new.
BEGINS=${MOUNT_PATH:-}/$FOLDER.begins
SERVER=("$MONGOD" --config "$CONFIG")

# --- The five functions -----------------------------------------------------------------------------------------------------

# Writes the server's configuration and starts it. Starts nothing where the data is not this node's, or is gone.
configure_cluster_node() {
    local id=$1 ip=$2 state
    is_member "$id" "$ip" || return
    data_is_this_nodes "$id" || return
    if ! has_data; then
        state=$(state_without_data "$id") || return
        echo "node $id has no data yet: it begins in a cluster that is $state"
        if [[ $state == new ]]; then touch "$BEGINS"; else rm -f "$BEGINS"; fi
    fi
    install -d -o "$RUN_AS" -g "$(id -gn "$RUN_AS")" -m 0700 "$DATA"
    write_if_changed "$CONFIG" "$(configuration "$ip")"
    start_server "$id"
}

# Waits until this node is the primary, or a secondary that has all that the primary had when it was asked. What the others lack is
# only printed.
wait_for_healthy_cluster() {
    local id=$1 ip=$2 lacks='' goal=''
    until serves "$id" "$ip"; do
        tell "waits: $lacks"
        server_has_failed && return 1
        sleep 1
    done
    write_identity "$id" "$SET_ID"
    rm -f "$DECISION" "$BEGINS"
    echo "node $id is $(state_name "$STATE") and in sync at $(date -u -d "@$APPLIED" +%FT%TZ)"
    print_absent "$id"
}

# Steps the primary down, and stops the server. A refused step-down says that no other node has caught up: the function asks again, as
# long as the agent lets it run.
drain_cluster_node() {
    local id=$1 ip=$2 said
    if ! server_runs; then
        echo "the server does not run: nothing to drain"
        return 0
    fi
    while read_status "$ip" && (( STATE == PRIMARY )); do
        said=$(ask "$ip" "$STEP_DOWN") && break
        tell "waits: no other node takes over: ${said##*$'\n'}"
        sleep 1
    done
    stop_server
}

# For `node-agent roll`: passes only if one node is the primary, all the others are secondaries of it, and all are in sync.
check_cluster() {
    local id ip count=0 primaries=() ids=() view='' faults=()
    nodes_are_the_members || return
    while read -r id ip; do
        count=$((count + 1))
        if ! read_status "$ip"; then
            faults+=("$id does not answer at $ip:$PORT${FAULT:+: $FAULT}")
            continue
        fi
        ids+=("$SET_ID")
        [[ $SET == "$CLUSTER" ]] || faults+=("$id is of the replica set $SET")
        case $STATE in
            "$PRIMARY") primaries+=("$id") view=$ALL ;;
            "$SECONDARY") ;;
            *) faults+=("$id is $(state_name "$STATE")") ;;
        esac
    done < <(members)
    [[ $(distinct "${ids[@]-}") == 1 ]] || faults+=("the nodes are not of one replica set")
    if (( ${#primaries[@]} == 1 )); then
        check_view "${primaries[0]}" "$count" "$view"
    else
        faults+=("${#primaries[@]} nodes are the primary: ${primaries[*]-}")
    fi
    if (( ${#faults[@]} )); then
        printf '%s\n' "${faults[@]}"
        return 1
    fi
    echo "${primaries[0]} is the primary, and $((count - 1)) secondaries are in sync"
}

# For `node-agent roll`: prints the id of the primary.
leader_node() {
    local id ip
    nodes_are_the_members >&2 || return
    while read -r id ip; do
        if read_status "$ip" && (( STATE == PRIMARY )); then
            echo "$id"
            return 0
        fi
    done < <(members)
    echo "no node is the primary" >&2
    return 1
}

# --- A node without data ----------------------------------------------------------------------------------------------------

has_data() { [[ -e $DATA/WiredTiger || -e $DATA/storage.bson ]]; }

# Prints new or existing; fails where nothing must be begun.
state_without_data() {
    local id=$1 decision='' others='' other at STATE=''
    [[ ! -e $DECISION ]] || decision=$(tr -d '[:space:]' <"$DECISION")
    while read -r other at; do
        [[ $other != "$id" ]] || continue
        if ! read_status "$at"; then
            # Only a node that is not there, or has no replica set yet, says nothing against a new one.
            [[ $FAULT =~ NotYetInitialized|MongoServerSelectionError|MongoNetworkError ]] && continue
            echo "$other: ${FAULT:-no answer}" >&2
        fi
        others=$at
        (( STATE != PRIMARY )) || break
    done < <(members)
    case $decision in
        new) echo new; return ;;
        rejoin)
            if [[ $STATE == "$PRIMARY" ]]; then echo existing; return; fi
            echo "$DECISION says rejoin, but no other node is the primary" >&2 ;;
        '')
            # Nobody else has a replica set.
            if [[ ! -e $IDENTITY && ! $others ]] && new_cluster_may_begin; then echo new; return; fi ;;
        *) echo "$DECISION says \"$decision\": it must be rejoin or new" >&2 ;;
    esac
    data_is_gone "$id" "$others"
}

# A member that has forgotten its votes votes all the same while it copies the data, unless it was removed and added anew.
data_is_gone() {
    local id=$1 others=$2 own
    own=$(members | sed -n "s/^$id //p"):$PORT
    {
        echo "the volume at ${MOUNT_PATH:-} holds no data of the cluster $CLUSTER, and none may be begun" \
            "(NEW_CLUSTER_BEFORE=$NEW_CLUSTER_BEFORE): the data of node $id is gone. Nothing was started."
        if [[ $STATE == "$PRIMARY" ]]; then
            echo "To take node $id back in, empty, in mongosh on the primary ($others, MongoDB 5.0 or later):"
            echo "  rs.remove(\"$own\"); rs.add(\"$own\")"
            echo "then on this node: echo rejoin > $DECISION; node-agent retry"
        else
            echo "No other node is the primary. Bring those up first that have their data."
        fi
        echo "To begin a new, empty cluster instead, on every node: echo new > $DECISION; node-agent retry"
    } >&2
    return 1
}

# --- What MongoDB says ------------------------------------------------------------------------------------------------------

# Of the states of a member (manual, "Replica Set Member States").
PRIMARY=1
SECONDARY=2

state_name() {
    case $1 in
        0) echo "starting up" ;;
        1) echo "the primary" ;;
        2) echo "a secondary" ;;
        3) echo "recovering" ;;
        5) echo "copying the data (initial sync)" ;;
        8) echo "down" ;;
        9) echo "rolling back" ;;
        10) echo "removed from the replica set" ;;
        *) echo "in state $1" ;;
    esac
}

# The last line names the error, where there is one.
TRY='try { %s } catch (error) { print("error " + (error.codeName || error.message)); quit(1); }'
# A line for the replica set, and one for each member: address, state, health, seconds of its last operation, votes, itself.
STATUS='
    const status = db.adminCommand({replSetGetStatus: 1});
    const config = db.adminCommand({replSetGetConfig: 1}).config;
    print("set " + status.set + " " + config.settings.replicaSetId.toHexString());
    status.members.forEach(function (one) {
        const settings = config.members.find(function (other) { return other._id === one._id; });
        const applied = one.optimeDate ? Math.floor(one.optimeDate.getTime() / 1000) : 0;
        print(["member", one.name, one.state, one.health, applied, settings ? settings.votes : 0, one.self ? 1 : 0].join(" "));
    });'
STEP_DOWN='db.adminCommand({replSetStepDown: 60, secondaryCatchUpPeriodSecs: 10});'

# ask ADDRESS CODE: what the node prints for this code; fails if the code does.
ask() {
    local uri="mongodb://$1:$PORT/?directConnection=true&serverSelectionTimeoutMS=3000" code
    # shellcheck disable=SC2059 # the format is the one above
    code=$(printf "$TRY" "$2")
    timeout 30 "$MONGOSH" --quiet --norc ${MONGOSH_OPTIONS[@]+"${MONGOSH_OPTIONS[@]}"} "$uri" --eval "$code" </dev/null 2>&1
}

# Sets SET, SET_ID, and of the node itself STATE and APPLIED; ALL has the lines of the members. Otherwise FAULT is why not.
read_status() {
    local text word name state health applied votes self
    SET='' SET_ID='' STATE='' APPLIED='' ALL='' FAULT=''
    if ! text=$(ask "$1" "$STATUS"); then
        FAULT=${text##*$'\n'}
        return 1
    fi
    while read -r word name state health applied votes self; do
        case $word in
            set) SET=$name SET_ID=$state ;;
            member)
                ALL+="$name $state $health $applied $votes"$'\n'
                if (( self )); then STATE=$state APPLIED=$applied; fi ;;
        esac
    done <<<"$text"
    [[ $STATE ]]
}

# Whether this node has joined and is in sync; otherwise sets `lacks`. `goal` is the second that it has to reach.
serves() {
    local id=$1 ip=$2
    if ! read_status "$ip"; then
        if [[ $FAULT == "error NotYetInitialized" ]]; then begin_the_set "$id"; else lacks="node $id: ${FAULT:-no answer}"; fi
    elif ! identity_is "$SET_ID"; then
        lacks="node $id is of the replica set $SET_ID, and the volume's identity is another one: $(tr '\n' ' ' <"$IDENTITY")"
    elif (( STATE != PRIMARY && STATE != SECONDARY )); then
        lacks="node $id is $(state_name "$STATE"); of the members are up: $(up)"
    elif [[ ! $goal ]] && ! goal=$(last_of_the_primary); then
        lacks="there is no primary; of the members are up: $(up)"
    elif (( APPLIED < goal )); then
        lacks="node $id is $((goal - APPLIED)) s behind"
    else
        return 0
    fi
    return 1
}

# The second of the primary's last operation, as this node knows it.
last_of_the_primary() {
    local name state health applied rest
    while read -r name state health applied rest; do
        if [[ $state == "$PRIMARY" ]]; then echo "$applied"; return 0; fi
    done <<<"$ALL"
    return 1
}

# The addresses of the members that this node reaches.
up() {
    local name state health rest all=''
    while read -r name state health rest; do
        if [[ $health == 1 ]]; then all+=" ${name%:*}"; fi
    done <<<"$ALL"
    all=${all# }
    echo "${all:-none}"
}

# On the first node of a new cluster, once all its members answer; the others wait for it.
begin_the_set() {
    local id ip number=0 list='' said first address
    read -r first address < <(members)
    if [[ ! -e $BEGINS ]]; then
        lacks="node $1 waits for the others to take it in"
    elif [[ $first != "$1" ]]; then
        lacks="node $first has not begun the replica set yet"
    else
        while read -r id ip; do
            list+="{_id: $number, host: \"$ip:$PORT\"}, "
            number=$((number + 1))
        done < <(members)
        lacks="the replica set begins when all members answer"
        said=$(ask "$address" "db.adminCommand({replSetInitiate: {_id: \"$CLUSTER\", members: [${list%, }]}});") ||
            lacks+=": ${said##*$'\n'}"
    fi
}

print_absent() {
    local name state health rest
    while read -r name state health rest; do
        [[ ! $name || $health == 1 ]] || echo "${name%:*} does not serve yet; this node is not held up by it"
    done <<<"$ALL"
}

# Adds to `faults` what the primary says of the members.
check_view() {
    local name state health applied votes listed=0 newest=0 lines=$3
    while read -r name state health applied votes; do
        [[ $name ]] || continue
        listed=$((listed + 1))
        (( applied <= newest )) || newest=$applied
        [[ $health == 1 ]] || faults+=("the primary $1 does not reach $name")
        [[ $votes == 1 ]] || faults+=("$name has no vote")
    done <<<"$lines"
    while read -r name state health applied votes; do
        [[ ! $name || $health != 1 ]] || (( newest - applied <= MAX_LAG )) || faults+=("$name is $((newest - applied)) s behind")
    done <<<"$lines"
    (( listed == $2 )) || faults+=("the replica set has $listed members, and the settings name $2")
}

configuration() {
    cat <<END
# Written by the node's hook at its launch.
storage:
  dbPath: $DATA
net:
  port: $PORT
  bindIp: 127.0.0.1,$1
replication:
  replSetName: $CLUSTER
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
