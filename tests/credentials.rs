//! Credentials that AWS refuses are not used again.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod support;

use std::thread;
use std::time::Duration;

use ec2_sim::{Fault, FaultRule};
use support::{HOOKS, World, heartbeats, node_with, serving, wait_until};

const CREDENTIALS: &str = "imds:GET /latest/meta-data/iam/security-credentials/node";

fn asked(world: &World) -> usize {
    world.events().imds(CREDENTIALS).len()
}

/// How many calls were refused for their credentials.
fn refused(world: &World) -> usize {
    let events = world.events();
    let of_credentials = |code: &str| matches!(code, "AuthFailure" | "InvalidClientTokenId" | "ExpiredToken");
    let attempts = [events.attempts("ec2:*"), events.attempts("autoscaling:*")].concat();
    attempts.iter().filter(|call| call.code.as_deref().is_some_and(of_credentials)).count()
}

#[test]
fn a_boot_asks_the_metadata_service_for_credentials_once() {
    let world = World::new();
    let node = node_with(&world, HOOKS);
    let config = node.read("/etc/node-agent/config.toml");

    node.come_up(&config);

    assert_eq!(asked(&world), 1);
    assert_eq!(refused(&world), 0);
}

#[test]
fn an_expired_key_that_the_metadata_serve_first_is_replaced() {
    let world = World::new();
    let node = node_with(&world, HOOKS);
    let old = r#"{"Code":"Success","LastUpdated":"2020-01-01T00:00:00Z","Type":"AWS-HMAC","AccessKeyId":"ASIAOLDOLDOLDOLDOLD0",
        "SecretAccessKey":"old","Token":"old","Expiration":"2020-01-01T06:00:00Z"}"#;
    let path = "iam/security-credentials/node".to_owned();
    world.sim.change_instance(&node.id, |spec| drop(spec.metadata.insert(path.clone(), old.to_owned()))).unwrap();
    let service = node.start_with(&["run"]);
    wait_until(|| refused(&world) >= 2, || service.log());

    world.sim.change_instance(&node.id, |spec| drop(spec.metadata.remove(&path))).unwrap();

    service.wait_for("result=done");
    assert_eq!(world.completions(), ["CONTINUE"]);
    assert!(refused(&world) < 30 && asked(&world) < 30, "{} {}", refused(&world), asked(&world));
}

#[test]
fn a_retry_signs_with_the_keys_of_a_role_that_was_replaced_meanwhile() {
    let world = World::new();
    let broken = HOOKS.replace("echo \"configure", "[ -e /tmp/repaired ] || return 3; echo \"configure");
    let (node, service) = serving(&world, &broken, "held for");
    // The calls that begin a hold have been answered, each of which would be refused: the tag and the hook's timeout.
    let is_tagged =
        || !world.sim.instance_tags(&node.id).unwrap().get("node-agent:status").is_none_or(String::is_empty);
    let has_asked = || !world.events().attempts("autoscaling:DescribeLifecycleHooks").is_empty();
    wait_until(|| is_tagged() && has_asked(), || service.log());
    assert_eq!(asked(&world), 1);

    world.sim.revoke_credentials(&node.id);
    node.shell("touch /tmp/repaired");
    let retried = node.start_with(&["retry"]).end();

    assert_eq!(retried.code, Some(0), "{}", retried.log);
    assert_eq!(world.completions(), ["CONTINUE"]);
    assert_eq!(refused(&world), 0, "{}", service.log());
    assert_eq!(asked(&world), 2);
}

#[test]
fn heartbeats_of_a_hold_outlive_the_role_that_the_hold_began_with() {
    let hook = ec2_sim::HookSpec { heartbeat_timeout: Duration::from_secs(6), ..ec2_sim::HookSpec::default() };
    let world = World::with_hook(&hook, |_| {});
    let node = node_with(&world, &HOOKS.replace("echo \"configure", "return 3; echo \"configure"));
    let service = node.start_with(&["run"]);
    let beats = || heartbeats(&world);
    wait_until(|| beats() > 0, || service.log());

    world.sim.revoke_credentials(&node.id);

    let so_far = beats();
    wait_until(|| beats() > so_far + 3, || service.log());
    assert_eq!(world.sim.lifecycle_state(&node.id).as_deref(), Some("Pending:Wait"));
}

#[test]
fn a_refused_metadata_token_is_renewed() {
    let world = World::new();
    let broken = "[ -e /tmp/repaired ] || return 3; echo \"configure";
    let node = node_with(&world, &HOOKS.replace("echo \"configure", broken));
    let config = node.read("/etc/node-agent/config.toml");
    node.configure(format!("{config}\n[timeouts]\naws = \"30s\"\n"));
    let service = node.start_with(&["run"]);
    support::wait_for_state(&node, "held", &service);

    // After a resume from hibernation the service knows neither the token nor, by then, the keys.
    world.sim.revoke_tokens(&node.id).unwrap();
    world.sim.revoke_credentials(&node.id);
    node.shell("touch /tmp/repaired");

    support::run(&node, &["retry"]).must_fail(0, &["result=done"]);
    assert_eq!(world.completions(), ["CONTINUE"]);
}

#[test]
fn every_code_that_may_speak_of_old_credentials_has_them_asked_for_anew() {
    // How long the credentials must have been in use.
    let cases = [
        ("AuthFailure", 2),
        ("ExpiredToken", 2),
        ("ExpiredTokenException", 2),
        ("InvalidClientTokenId", 2),
        ("SignatureDoesNotMatch", 2),
        ("UnrecognizedClientException", 2),
        ("UnauthorizedOperation", 31),
        ("AccessDenied", 31),
    ];
    let run = |(code, age): &(&str, u64)| {
        let world = World::new();
        let node = node_with(&world, &HOOKS.replace("echo \"configure", &format!("sleep {age}; echo \"configure")));
        let fault = Fault::Error { http: 403, code: (*code).to_owned(), message: "no".to_owned() };
        world.sim.add_fault(FaultRule::once("autoscaling:CompleteLifecycleAction", fault)).unwrap();
        let config = node.read("/etc/node-agent/config.toml");

        node.come_up(&config);

        assert_eq!(asked(&world), 2, "{code}");
        assert_eq!(world.completions(), ["CONTINUE"], "{code}");
    };
    thread::scope(|scope| {
        // A world lives in the mount namespace of its thread.
        let runs: Vec<_> = cases.iter().map(|case| scope.spawn(|| run(case))).collect();
        runs.into_iter().for_each(|run| run.join().unwrap());
    });
}
