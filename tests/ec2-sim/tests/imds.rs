//! The metadata service answers as AWS documents it.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod common;

use std::time::{Duration, Instant};

use common::{PATIENCE, Reply, World, request};
use ec2_sim::InstanceSpec;
use serde_json::Value;

const TOKEN: &str = "/latest/api/token";
const TTL: &str = "X-aws-ec2-metadata-token-ttl-seconds";

fn imds(world: &World, method: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
    request(method, &world.sim.imds_url(&world.instance), path, headers, b"", PATIENCE).unwrap()
}

fn token(world: &World, ttl: &str) -> String {
    let reply = imds(world, "PUT", TOKEN, &[(TTL, ttl)]);
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header(TTL), Some(ttl));
    reply.text()
}

fn get(world: &World, path: &str) -> Reply {
    imds(world, "GET", path, &[("X-aws-ec2-metadata-token", &token(world, "60"))])
}

fn text(world: &World, path: &str) -> String {
    let reply = get(world, path);
    assert_eq!(reply.status, 200, "{path}");
    reply.text()
}

#[test]
fn a_request_without_a_token_is_answered_401() {
    let world = World::new();
    assert_eq!(imds(&world, "GET", "/latest/meta-data/instance-id", &[]).status, 401);
}

#[test]
fn a_wrong_token_is_answered_401() {
    let world = World::new();
    let other = World::new();
    for wrong in ["nonsense", &token(&other, "60")] {
        let headers = [("X-aws-ec2-metadata-token", wrong)];
        assert_eq!(imds(&world, "GET", "/latest/meta-data/instance-id", &headers).status, 401);
    }
}

#[test]
fn a_token_expires() {
    let world = World::new();
    let asked = Instant::now();
    let token = token(&world, "4");
    let headers = [("X-aws-ec2-metadata-token", token.as_str())];
    let status = || imds(&world, "GET", "/latest/meta-data/mac", &headers).status;
    assert_eq!(status(), 200);
    while status() == 200 {
        assert!(asked.elapsed() < PATIENCE, "it never expires");
        // It is its time that it runs out by, not by being used.
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(status(), 401);
    assert!(asked.elapsed() >= Duration::from_secs(4));
}

#[test]
fn a_token_needs_a_ttl_between_1_and_21600_seconds() {
    let world = World::new();
    assert_eq!(imds(&world, "PUT", TOKEN, &[]).status, 400);
    for ttl in ["0", "21601", "-1", "soon"] {
        assert_eq!(imds(&world, "PUT", TOKEN, &[(TTL, ttl)]).status, 400, "{ttl}");
    }
    token(&world, "21600");
}

#[test]
fn a_token_asked_for_through_a_proxy_is_refused_403() {
    let world = World::new();
    let headers = [(TTL, "60"), ("X-Forwarded-For", "10.0.0.1")];
    assert_eq!(imds(&world, "PUT", TOKEN, &headers).status, 403);
}

#[test]
fn a_disabled_service_answers_403() {
    let world = World::new();
    world.sim.change_instance(&world.instance, |spec| spec.imds = false).unwrap();
    assert_eq!(imds(&world, "PUT", TOKEN, &[(TTL, "60")]).status, 403);
}

#[test]
fn the_metadata_of_an_instance_is_there_and_listed() {
    let world = World::new();
    let id = world.instance.as_str();
    assert_eq!(text(&world, "/latest/meta-data/instance-id"), id);
    assert_eq!(text(&world, "/2021-07-15/meta-data/instance-id"), id);
    assert_eq!(text(&world, "/latest/meta-data/local-ipv4"), "10.0.1.10");
    assert_eq!(text(&world, "/latest/meta-data/placement/region"), "eu-west-1");
    assert_eq!(text(&world, "/latest/meta-data/placement/availability-zone"), "eu-west-1a");
    assert_eq!(text(&world, "/latest/user-data"), "hello");
    let macs = "/latest/meta-data/network/interfaces/macs/";
    let listed = text(&world, macs);
    assert_eq!(listed, format!("{}/", text(&world, "/latest/meta-data/mac")));
    assert_eq!(text(&world, &format!("{macs}{listed}local-ipv4s")), "10.0.1.10");
    assert_eq!(text(&world, "/latest/"), "dynamic/\nmeta-data/\nuser-data");
    assert!(text(&world, "/latest/meta-data/").lines().any(|line| line == "placement/"));
    let document = text(&world, "/latest/dynamic/instance-identity/document");
    let document: Value = serde_json::from_str(&document).unwrap();
    assert_eq!(document["instanceId"], id);
    assert_eq!(document["region"], "eu-west-1");
    for absent in ["spot/instance-action", "nonsense", "instance-id/more"] {
        assert_eq!(get(&world, &format!("/latest/meta-data/{absent}")).status, 404, "{absent}");
    }
}

#[test]
fn a_role_that_comes_late_is_a_404_until_it_is_there() {
    let world = World::new();
    let role = "/latest/meta-data/iam/security-credentials/";
    world.sim.change_instance(&world.instance, |spec| spec.role = None).unwrap();
    assert_eq!(get(&world, role).status, 404);
    world.sim.change_instance(&world.instance, |spec| spec.role = Some("late".into())).unwrap();
    assert_eq!(text(&world, role), "late");
    let credentials: Value = serde_json::from_str(&text(&world, &format!("{role}late"))).unwrap();
    assert_eq!(credentials["Code"], "Success");
    assert!(credentials["AccessKeyId"].as_str().unwrap().starts_with("ASIA"));
}

#[test]
fn the_target_lifecycle_state_follows_the_group_and_is_absent_outside_one() {
    let world = World::new();
    let path = "/latest/meta-data/autoscaling/target-lifecycle-state";
    assert_eq!(text(&world, path), "InService");
    world.sim.set_lifecycle_state(&world.instance, "Warmed:Pending:Wait").unwrap();
    assert_eq!(text(&world, path), "Warmed:Stopped");
    world.sim.set_lifecycle_state(&world.instance, "Terminating:Wait").unwrap();
    assert_eq!(text(&world, path), "Terminated");
    let alone = world.sim.launch(InstanceSpec {
        by_id_dir: world.dir.path().join("alone"),
        hop_limit: 2,
        ..InstanceSpec::default()
    });
    let url = world.sim.imds_url(&alone.unwrap());
    let token = request("PUT", &url, TOKEN, &[(TTL, "60")], b"", PATIENCE).unwrap().text();
    let headers = [("X-aws-ec2-metadata-token", token.as_str())];
    assert_eq!(request("GET", &url, path, &headers, b"", PATIENCE).unwrap().status, 404);
}
