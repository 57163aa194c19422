//! A journal that is not to be trusted is set aside, said, and the run goes on.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod support;

use support::{HOOKS, World, config, volume_at};

const JOURNAL: &str = "/var/lib/node-agent/state.json";
const ASIDE: &str = "/var/lib/node-agent/state.json.stale";

#[test]
fn a_journal_of_another_instance_a_truncated_one_and_a_newer_one_are_set_aside_and_said() {
    let world = World::new();
    let volume = world.volume(1);
    let first = world.launch();
    first.write("/usr/local/lib/node/hooks.sh", HOOKS);
    let config = config(&[volume_at("/mydata", &volume, "xfs")]);
    first.come_up(&config);
    let baked = first.read(JOURNAL);
    let cases = [
        (baked.clone(), format!("the journal is of instance {}", first.id)),
        (baked[..baked.len() / 2].to_owned(), "is unreadable (EOF while parsing".to_owned()),
        (
            baked.replacen("\"schema\": 1", "\"schema\": 2", 1),
            "is unreadable (schema 2, this agent knows 1)".to_owned(),
        ),
        (String::new(), "is unreadable (EOF while parsing".to_owned()),
    ];
    let first_id = first.id.clone();
    let mut last = first;
    for (journal, said) in cases {
        last.terminate();
        let node = world.launch();
        node.write("/usr/local/lib/node/hooks.sh", HOOKS);
        node.write(JOURNAL, &journal);

        let outcome = node.come_up(&config);

        assert!(outcome.log.contains(&said) && outcome.log.contains("state.json.stale"), "{said}\n{}", outcome.log);
        // That of another instance is recognised when the instance is known: this run has begun to write in it.
        let aside = node.read(ASIDE);
        assert!(aside == journal || aside.contains(&format!("\"instance_id\": \"{first_id}\"")), "{aside}");
        // The new instance was not fooled: its hooks ran, it was reported, and its data is that of the first.
        assert!(node.read("/var/log/hooks.log").contains("health"));
        assert_eq!(node.journal()["instance_id"], node.id.as_str());
        assert!(!outcome.log.contains("formatted"), "{}", outcome.log);
        last = node;
    }
    assert_eq!(world.completions(), ["CONTINUE"; 5]);
}

#[test]
fn the_status_of_a_journal_that_cannot_be_read_says_what_to_do() {
    let world = World::new();
    let node = world.launch();
    node.write(JOURNAL, "{\"schema\": 1, \"inst");

    node.start_with(&["status"]).end().must_fail(1, &["code=state-unusable", "cannot be read", "node-agent retry"]);
}

#[test]
fn a_hook_group_in_the_journal_that_is_no_hooks_is_left_alone() {
    let world = World::new();
    let node = world.launch();
    node.write("/usr/local/lib/node/hooks.sh", HOOKS);
    let config = config(&[volume_at("/mydata", world.volume(1), "xfs")]);
    node.come_up(&config);
    // Not -1, with which kill(2) reaches every process: a failure would not end with this test. The agent's own group is 0
    // for killpg(2).
    let mut journal = node.journal();
    let boot_id = journal["boot_id"].clone();
    journal["hook"] = serde_json::json!({ "pid": 0, "started": 0, "boot_id": boot_id });
    node.write(JOURNAL, journal.to_string());

    let outcome = node.come_up(&config);

    assert!(!outcome.log.contains("a hook of an earlier run"), "{}", outcome.log);
    assert!(node.journal()["hook"].is_null());
}
