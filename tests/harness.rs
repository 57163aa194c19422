//! The scenarios' own helpers: what a test relies on when it says that something runs, is configured, or was checked.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod support;

use std::panic::catch_unwind;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use ec2_sim::VolumeId;
use node_agent::config::{Scope, Text, load};
use support::{Guarded, config_for, config_with, each, runs, volume_at, wait_until};

#[test]
fn a_process_runs_until_it_ends_and_a_zombie_does_not_run() {
    let mut sleeper = Guarded(Command::new("sleep").arg("600").spawn().unwrap());
    assert!(runs(sleeper.0.id()));

    sleeper.0.kill().unwrap();

    // Not reaped yet.
    wait_until(|| !runs(sleeper.0.id()), || "the zombie counts as a process that runs".to_owned());
    sleeper.0.wait().unwrap();
    assert!(!runs(sleeper.0.id()));
}

#[test]
fn each_case_is_checked_once_and_one_that_fails_fails_the_test() {
    let cases: Vec<usize> = (0..13).collect();
    let checked = AtomicUsize::new(0);
    each(&cases, |case| {
        checked.fetch_add(1 << case, Ordering::Relaxed);
    });
    assert_eq!(checked.into_inner(), (1 << cases.len()) - 1);

    assert!(catch_unwind(|| each(&cases, |case| assert!(*case != 7))).is_err());
}

#[test]
fn the_configurations_of_the_scenarios_have_no_mistake() {
    let volume = VolumeId::from("vol-0123456789abcdef0");
    let volumes = [volume_at("/mydata", &volume, "xfs"), volume_at("/mylog", "vol-01234567", "ext4")];
    for text in [config_for(&volume), config_with("hold_for = \"10m\"", &volumes, "[timeouts]\nhooks = \"15m\"")] {
        let loaded = load(Text { name: "config.toml".to_owned(), text: text.clone() }, None, Scope::Offline);
        let config = loaded.unwrap_or_else(|mistakes| panic!("{mistakes}\n{text}"));
        assert!(config.warnings.is_empty() && config.hooks.is_some() && config.lifecycle.is_some(), "{text}");
    }
}
