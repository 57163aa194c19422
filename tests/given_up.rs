//! A node whose launch was abandoned: its group terminates the instance, and waits for the termination hook, too.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

#[path = "departure/common.rs"]
mod common;
mod support;

use common::{HOOKS, TERMINATE_HOOK, world};
use support::{GROUP, config_with, hooks_called, run, volume_at};

#[test]
fn an_instance_that_was_given_up_leaves_at_once() {
    for (setting, failing, called) in [
        ("on_failure = \"abandon\"", "configure", &["configure"][..]),
        ("hold_for = \"2s\"", "health", &["configure", "health", "drain"][..]),
    ] {
        let world = world(|_| {});
        let (node, volume) = world.node();
        node.hooks(HOOKS.replace(&format!("echo \"{failing} $1"), &format!("trap 'exit 3' EXIT; echo \"{failing} $1")));
        let lifecycle = format!("terminate_hook_name = \"{TERMINATE_HOOK}\"\n{setting}");
        // The gate is not asked again: the other node never comes.
        let rest = format!("[cluster]\nasg_names = [\"{GROUP}\", \"kafka-node-01\"]\ngate = \"1s\"");
        node.configure(config_with(&lifecycle, &[volume_at("/mydata", &volume, "ext4")], &rest));

        let outcome = run(&node, &["run"]);

        assert_eq!(outcome.code, Some(1), "{}", outcome.log);
        assert_eq!(world.completions(), ["ABANDON", "CONTINUE"], "{}", outcome.log);
        assert_eq!(hooks_called(&node), called, "{}", outcome.log);
        assert!(node.shell("findmnt -n /mydata || echo unmounted").contains("unmounted"));
        let last = outcome.last();
        assert!(last.contains("result=failed") && last.contains("hook-failed"), "{last}");
    }
}
