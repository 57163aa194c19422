//! Where the time of a replacement goes: a long drain, EC2's end of the old instance, its network interface, and the launches that
//! fail meanwhile.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

#[path = "roll/cluster.rs"]
mod cluster;

use std::time::Duration;

use cluster::witness::story;
use cluster::{Behaviour, Cluster, Healthy};
use ec2_sim::{Latencies, VolumeSpec, What};
use serde_json::Value;

const DRAIN: Duration = Duration::from_mins(1);
/// From `shutting-down` to `terminated`.
const END: Duration = Duration::from_secs(8);
/// From `shutting-down` until the network interface is free.
const INTERFACE: Duration = Duration::from_secs(14);

#[test]
fn a_drain_of_a_minute_shows_on_the_time_line_with_the_launches_that_failed() {
    let latencies = Latencies { shutting_down: END, interface: Some(INTERFACE.into()), ..Latencies::default() };
    let behaviour = Behaviour { nodes: 1, drain: DRAIN.into(), latencies, ..Behaviour::default() };
    let cluster = Cluster::new(&behaviour);
    let volume = cluster.sim.create_volume(VolumeSpec { size_bytes: 1 << 20, ..VolumeSpec::default() }).unwrap();
    let mut version = cluster.version(0, "ami-2", Healthy);
    version.launch.as_mut().unwrap().volume = Some(volume.to_string());
    cluster.publish_for(0, version);

    let log = cluster.roll(&["--json"]).must_end(0);

    let events = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let line = events.into_iter().find(|event| event["event"] == "timeline").unwrap();
    let story = story(&cluster.sim);
    println!("{}\n{story}", line["text"]);
    let seconds = |name: &str| line["seconds"][name].as_u64().unwrap_or_else(|| panic!("{name}: {line}\n{story}"));
    let near = |name: &str, wanted: Duration| {
        // Looks are 5 s apart, and a busy machine is late.
        let (seen, wanted) = (seconds(name), wanted.as_secs());
        assert!(seen + 6 >= wanted && seen <= wanted + 20, "{name}: {seen} s, not about {wanted} s: {line}\n{story}");
    };
    near("drain", DRAIN);
    near("EC2's end", END);
    near("interface free", INTERFACE - END);
    // The pauses between the tries double: 1 s, 2 s … 64 s.
    let failed = cluster.sim.events().iter().filter(|event| is_failed_launch(&event.what)).count();
    assert!(failed >= 6, "{story}");
    assert_eq!(line["failed_launches"], failed, "{line}\n{story}");
    assert!(seconds("launch") > 0, "the launch comes with the next try only: {line}\n{story}");
    assert!(line["total_seconds"].as_u64().unwrap() >= (DRAIN + INTERFACE).as_secs(), "{line}");
}

fn is_failed_launch(what: &What) -> bool {
    matches!(what, What::Activity(activity) if activity.status.contains("in use"))
}
