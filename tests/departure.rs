//! A node that is to go: gate, drain, unmount, detach, CONTINUE, on real filesystems.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

#[path = "departure/common.rs"]
mod common;
mod support;

use common::{Leaving, leaving, ordered};
use support::{each, hooks_called};

#[test]
fn a_node_that_is_told_to_go_drains_unmounts_detaches_and_continues_once() {
    each(&["xfs", "ext4"], |file_system| {
        let Leaving { world, node, volume, service } = leaving(file_system, "detach_on_terminate = true", "");
        node.shell("dd if=/dev/urandom of=/mydata/log bs=1M count=8 status=none");
        let sum = node.shell("sha256sum </mydata/log");

        ordered(&world, &node);
        let outcome = service.end();

        assert_eq!(outcome.code, Some(0), "{}", outcome.log);
        assert_eq!(hooks_called(&node), ["configure", "health", "drain"], "{}", outcome.log);
        assert_eq!(world.completions(), ["CONTINUE", "CONTINUE"]);
        let attachments = world.sim.volume_state(&volume).unwrap().attachments;
        assert!(attachments.is_empty(), "{attachments:?}");
        let _ = sum;
    });
}
