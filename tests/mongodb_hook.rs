//! The hook for MongoDB, with a stand-in for mongosh (`tests/mongodb/mongosh.js`) that answers as MongoDB's manual has it. There is no
//! server of MongoDB's in any registry of packages that the tests use, and so none is run. Without `node` the tests say that they did
//! not run.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

const HOOK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/hooks/mongodb.sh");
const SHELL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/mongodb/mongosh.js");
const ADDRESSES: [&str; 3] = ["10.0.1.10", "10.0.1.11", "10.0.1.12"];
const SET_ID: &str = "66be8d5c6d9f9c3a4d0e5f11";
const ROLL_NODES: &str =
    r#"[{"id": "00", "ip": "10.0.1.10"}, {"id": "01", "ip": "10.0.1.11"}, {"id": "02", "ip": "10.0.1.12"}]"#;

fn node_is_missing() -> bool {
    let missing = Command::new("node").arg("--version").output().is_err();
    if missing {
        eprintln!("NOT RUN: there is no `node` on the path, so this test has shown NOTHING.");
    }
    missing
}

/// A replica set as its members tell it.
struct Set {
    dir: tempfile::TempDir,
    /// State, health and second of the last operation of each member, as all of them see it.
    members: Vec<(u8, u8, u32)>,
    votes: Vec<u8>,
    name: &'static str,
}

impl Set {
    /// The first member is the primary.
    fn healthy() -> Set {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("data")).unwrap();
        Set { dir, members: vec![(1, 1, 30), (2, 1, 29), (2, 1, 30)], votes: vec![1; 3], name: "mongodb" }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What the member at this place answers: MongoDB 8.0 manual, replSetGetStatus and replSetGetConfig.
    fn answers(&self, own: usize) -> Value {
        let date = |second: &u32| json!({"$date": format!("2024-08-15T23:06:{second:02}.978Z")});
        let host = |place: usize| format!("10.0.1.{}:27017", 10 + place);
        let status = |(place, (state, health, second)): (usize, &(u8, u8, u32))| {
            let mut member = json!({
                "_id": place, "name": host(place), "health": health, "state": state, "stateStr": "SECONDARY", "uptime": 592,
                "optime": {"ts": 7, "t": 3}, "optimeDate": date(second),
            });
            if place == own {
                member["self"] = true.into();
            }
            member
        };
        let config =
            |(place, votes): (usize, &u8)| json!({"_id": place, "host": host(place), "priority": 1, "votes": votes});
        let members: Vec<_> = self.members.iter().enumerate().map(status).collect();
        let configs: Vec<_> = self.votes.iter().enumerate().map(config).collect();
        let settings = json!({"replicaSetId": {"$oid": SET_ID}});
        json!({
            "replSetGetStatus": {"set": self.name, "myState": self.members[own].0, "members": members, "ok": 1},
            "replSetGetConfig": {"config": {"_id": self.name, "version": 1, "members": configs, "settings": settings}, "ok": 1},
            "replSetStepDown": {"ok": 1},
            "replSetInitiate": {"ok": 1},
        })
    }

    /// These members answer, and no others.
    fn answer(&self, up: &[usize]) {
        for (place, address) in ADDRESSES.iter().enumerate() {
            let file = self.path(&format!("{address}.json"));
            if up.contains(&place) {
                fs::write(file, self.answers(place).to_string()).unwrap();
            } else {
                let _ = fs::remove_file(file);
            }
        }
    }

    fn change(&self, place: usize, change: impl FnOnce(&mut Value)) {
        let file = self.path(&format!("{}.json", ADDRESSES[place]));
        let mut answers = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        change(&mut answers);
        fs::write(file, answers.to_string()).unwrap();
    }

    /// Sources the hook as the agent does and runs this: the exit code and all that is printed.
    fn run(&self, script: &str) -> (i32, String) {
        let here = self.dir.path().display();
        let before = format!(
            "set -Eeuo pipefail; . '{HOOK}'; MONGOSH='{SHELL}'; ROLL_NODES='{ROLL_NODES}'; DECISION='{here}/decision'; server_runs() {{ \
             [[ -e '{here}/runs' ]]; }}; stop_server() {{ rm '{here}/runs'; echo stopped; }}; {script}"
        );
        let mut command = Command::new("timeout");
        command
            .args(["60", "bash", "-c", &before])
            .env("MOUNT_PATH", self.path("data"))
            .env("ANSWERS", self.dir.path());
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status.code().unwrap(), said)
    }

    /// The commands that were given beside those that only ask.
    fn commands(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("commands")).unwrap_or_default();
        text.lines().filter(|line| !line.contains("replSetGet")).map(str::to_owned).collect()
    }
}

#[test]
fn the_check_passes_when_all_members_are_in_sync_and_the_primary_is_the_leader() {
    if node_is_missing() {
        return;
    }
    let set = Set::healthy();
    set.answer(&[0, 1, 2]);
    assert_eq!(set.run("check_cluster"), (0, "00 is the primary, and 2 secondaries are in sync\n".to_owned()));
    assert_eq!(set.run("leader_node"), (0, "00\n".to_owned()));
    assert_eq!(set.commands(), Vec::<String>::new());
}

/// How a replica set is changed, and what the check says of it.
type Defect = (fn(&mut Set), &'static str);

#[test]
fn the_check_names_whatever_keeps_one_more_node_from_going() {
    if node_is_missing() {
        return;
    }
    let defects: [Defect; 8] = [
        (|set| set.members[0] = (2, 1, 30), "0 nodes are the primary"),
        (|set| set.members[1] = (1, 1, 30), "2 nodes are the primary: 00 01"),
        (|set| set.members[2] = (8, 0, 0), "the primary 00 does not reach 10.0.1.12:27017"),
        (|set| set.members[2] = (5, 1, 30), "02 is copying the data (initial sync)"),
        (|set| set.members[1] = (2, 1, 19), "10.0.1.11:27017 is 11 s behind"),
        (|set| set.votes[2] = 0, "10.0.1.12:27017 has no vote"),
        (|set| set.name = "other", "00 is of the replica set other"),
        (
            |set| {
                set.members.push((2, 1, 30));
                set.votes.push(1);
            },
            "the replica set has 4 members, and the settings name 3",
        ),
    ];
    for (change, said) in defects {
        let mut set = Set::healthy();
        change(&mut set);
        set.answer(&[0, 1, 2]);
        let (code, text) = set.run("check_cluster");
        assert!(code == 1 && text.contains(said), "{said}: {text}");
    }
    let set = Set::healthy();
    set.answer(&[0, 1]);
    let (code, text) = set.run("check_cluster");
    assert!(code == 1 && text.contains("02 does not answer at 10.0.1.12:27017: MongoServerSelectionError"), "{text}");
    set.answer(&[0, 1, 2]);
    set.change(2, |answers| {
        answers["replSetGetConfig"]["config"]["settings"]["replicaSetId"]["$oid"] = "0".repeat(24).into()
    });
    let (code, text) = set.run("check_cluster");
    assert!(code == 1 && text.contains("the nodes are not of one replica set"), "{text}");
    assert_eq!(set.run("ROLL_NODES='[]'; leader_node").0, 1);
}

#[test]
fn a_secondary_is_healthy_when_it_has_what_the_primary_had() {
    if node_is_missing() {
        return;
    }
    let mut set = Set::healthy();
    set.members = vec![(1, 1, 30), (2, 1, 30), (8, 0, 0)];
    set.answer(&[0, 1]);
    fs::write(set.path("runs"), "").unwrap();
    let (code, text) = set.run("wait_for_healthy_cluster 01 10.0.1.11");
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("node 01 is a secondary and in sync at 2024-08-15T23:06:30Z"), "{text}");
    assert!(
        text.contains("10.0.1.12 does not serve yet"),
        "what another node lacks is told, and does not fail this one: {text}"
    );
    let identity = fs::read_to_string(set.path("data/mongodb.identity")).unwrap();
    assert_eq!(identity, format!("cluster=mongodb\nnode=01\nmember={SET_ID}\n"));

    let waits = |set: &Set, said: &str| {
        let (code, text) = set.run("lacks='' goal=''; serves 01 10.0.1.11 || { echo \"$lacks\"; exit 7; }");
        assert!(code == 7 && text.contains(said), "{said}: {text}");
    };
    set.members[1] = (2, 1, 28);
    set.answer(&[0, 1]);
    waits(&set, "node 01 is 2 s behind");
    set.members[1] = (3, 1, 30);
    set.answer(&[0, 1]);
    waits(&set, "node 01 is recovering; of the members are up: 10.0.1.10 10.0.1.11");
    set.members = vec![(8, 0, 0), (2, 1, 30), (8, 0, 0)];
    set.answer(&[1]);
    waits(&set, "there is no primary; of the members are up: 10.0.1.11");
    fs::write(set.path("data/mongodb.identity"), "cluster=mongodb\nnode=01\nmember=another").unwrap();
    waits(&set, "the volume's identity is another one");
    set.answer(&[]);
    waits(&set, "node 01: MongoServerSelectionError");
}

#[test]
fn the_first_node_of_a_new_cluster_begins_the_replica_set_and_no_other_does() {
    if node_is_missing() {
        return;
    }
    let set = Set::healthy();
    set.answer(&[0, 1, 2]);
    for place in 0..3 {
        let none = json!({"codeName": "NotYetInitialized", "errmsg": "no replset config has been received"});
        set.change(place, |answers| answers["replSetGetStatus"] = none);
    }
    let look = |id: &str, ip: &str| set.run(&format!("lacks='' goal=''; serves {id} {ip} || echo \"$lacks\""));
    let (_, text) = look("00", "10.0.1.10");
    assert!(text.contains("node 00 waits for the others to take it in"), "{text}");
    fs::write(set.path("data/mongodb.begins"), "").unwrap();
    let (_, text) = look("01", "10.0.1.11");
    assert!(text.contains("node 00 has not begun the replica set yet"), "{text}");
    assert_eq!(set.commands(), Vec::<String>::new());
    let (_, text) = look("00", "10.0.1.10");
    assert!(text.contains("the replica set begins when all members answer"), "{text}");
    let members: Vec<_> =
        ADDRESSES.iter().enumerate().map(|(id, ip)| json!({"_id": id, "host": format!("{ip}:27017")})).collect();
    let begun = json!({"replSetInitiate": {"_id": "mongodb", "members": members}});
    let commands = set.commands();
    let (address, command) = commands[0].split_once(' ').unwrap();
    assert_eq!((commands.len(), address), (1, ADDRESSES[0]));
    assert_eq!(serde_json::from_str::<Value>(command).unwrap(), begun);
}

#[test]
fn a_node_without_data_begins_nothing_that_others_have() {
    if node_is_missing() {
        return;
    }
    const EARLY: &str = "NEW_CLUSTER_BEFORE=2999-01-01T00:00:00Z";
    const LATE: &str = "NEW_CLUSTER_BEFORE=2020-01-01T00:00:00Z";
    let back = "rs.remove(\"10.0.1.12:27017\"); rs.add(\"10.0.1.12:27017\")";
    // Who answers, what a person has decided, the time, the exit code, what is said.
    let cases: [(&[usize], &str, &str, i32, &str); 8] = [
        (&[], "", EARLY, 0, "new"),
        (&[], "", LATE, 1, "No other node is the primary. Bring those up first that have their data."),
        (&[0, 1], "", EARLY, 1, back),
        (&[0, 1], "", LATE, 1, back),
        (&[0, 1], "rejoin", LATE, 0, "existing"),
        (&[1], "rejoin", LATE, 1, "says rejoin, but no other node is the primary"),
        (&[], "new", LATE, 0, "new"),
        (&[], "perhaps", LATE, 1, "it must be rejoin or new"),
    ];
    for (up, decision, time, wanted, said) in cases {
        let set = Set::healthy();
        set.answer(up);
        if !decision.is_empty() {
            fs::write(set.path("decision"), format!("{decision}\n")).unwrap();
        }
        let (code, text) = set.run(&format!("{time}; state_without_data 02"));
        assert!(code == wanted && text.contains(said), "{up:?} {decision} {time}: {code} {text}");
        assert_eq!(text.contains("echo rejoin >"), code == 1 && up.contains(&0), "{text}");
    }
    // An answer that cannot be understood is not the absence of a replica set.
    let set = Set::healthy();
    set.answer(&[0]);
    let refused = json!({"codeName": "AuthenticationFailed", "errmsg": "Authentication failed."});
    set.change(0, |answers| answers["replSetGetStatus"] = refused);
    let (code, text) = set.run(&format!("{EARLY}; state_without_data 02"));
    assert!(code == 1 && text.contains("00: error AuthenticationFailed"), "{code} {text}");
    // Deleted data is no blank volume.
    let set = Set::healthy();
    fs::write(set.path("data/mongodb.identity"), "cluster=mongodb\nnode=02\nmember=x").unwrap();
    assert_eq!(set.run(&format!("{EARLY}; state_without_data 02")).0, 1);
}

#[test]
fn a_primary_steps_down_before_it_stops_and_asks_until_it_may() {
    if node_is_missing() {
        return;
    }
    let set = Set::healthy();
    set.answer(&[0, 1, 2]);
    let drain = |id: &str, ip: &str| {
        fs::write(set.path("runs"), "").unwrap();
        set.run(&format!("drain_cluster_node {id} {ip}"))
    };
    assert_eq!(drain("01", "10.0.1.11"), (0, "stopped\n".to_owned()));
    assert_eq!(set.commands(), Vec::<String>::new());
    assert_eq!(drain("00", "10.0.1.10"), (0, "stopped\n".to_owned()));
    assert_eq!(set.commands(), [r#"10.0.1.10 {"replSetStepDown":60,"secondaryCatchUpPeriodSecs":10}"#]);
    // It stays the primary, until the agent's deadline.
    let no = json!({"codeName": "ExceededTimeLimit", "errmsg": "No electable secondaries caught up"});
    set.change(0, |answers| answers["replSetStepDown"] = no);
    fs::write(set.path("runs"), "").unwrap();
    let refused = set.run("sleep() { (( ++slept < 3 )) || exit 9; }; slept=0; drain_cluster_node 00 10.0.1.10");
    assert_eq!(refused, (9, "waits: no other node takes over: error ExceededTimeLimit\n".to_owned()));
    assert!(Path::exists(&set.path("runs")), "it serves on");
    // A secondary has caught up meanwhile.
    let then = format!(
        "sleep() {{ sed -i 's/\"replSetStepDown\":{{[^}}]*}}/\"replSetStepDown\":{{\"ok\":1}}/' '{}'; }}",
        set.path("10.0.1.10.json").display()
    );
    let (code, text) = set.run(&format!("{then}; drain_cluster_node 00 10.0.1.10"));
    assert!(code == 0 && text.ends_with("ExceededTimeLimit\nstopped\n"), "{code} {text}");
    assert_eq!(set.run("drain_cluster_node 00 10.0.1.10").1, "the server does not run: nothing to drain\n");
}

#[test]
fn the_server_is_configured_and_started_only_where_the_data_is_the_nodes_own() {
    if node_is_missing() {
        return;
    }
    let set = Set::healthy();
    let configure = |before: &str| {
        let here = set.path("");
        let own = format!("RUN_AS=root; CONFIG='{}node.yml'; start_server() {{ echo \"starts $1\"; }}", here.display());
        set.run(&format!("{own}; {before}; configure_cluster_node 01 10.0.1.11"))
    };
    let (code, text) = configure("NEW_CLUSTER_BEFORE=2020-01-01T00:00:00Z");
    assert!(code == 1 && text.contains("Nothing was started.") && !text.contains("starts"), "{text}");
    assert!(!set.path("node.yml").exists() && !set.path("data/mongodb").exists());

    let (code, text) =
        configure("NEW_CLUSTER_BEFORE=2999-01-01T00:00:00Z EXTRA_CONFIG='security: {keyFile: /etc/key}'");
    assert!(code == 0 && text.ends_with("starts 01\n"), "{text}");
    assert!(set.path("data/mongodb.begins").exists());
    let text = fs::read_to_string(set.path("node.yml")).unwrap();
    let data = set.path("data/mongodb").display().to_string();
    for line in [&format!("  dbPath: {data}"), "  bindIp: 127.0.0.1,10.0.1.11", "  replSetName: mongodb"] {
        assert!(text.lines().any(|one| one == line), "{line}: {text}");
    }
    assert!(text.contains("\nsecurity: {keyFile: /etc/key}\n"), "{text}");

    // A later launch, with data.
    fs::write(set.path("data/mongodb/WiredTiger"), "").unwrap();
    assert_eq!(configure("NEW_CLUSTER_BEFORE=2020-01-01T00:00:00Z"), (0, "starts 01\n".to_owned()));
    fs::write(set.path("data/mongodb.identity"), "cluster=mongodb\nnode=02\nmember=x").unwrap();
    let (code, text) = configure("true");
    assert!(code == 1 && text.contains("is not the one of node 01") && !text.contains("starts"), "{text}");
}
