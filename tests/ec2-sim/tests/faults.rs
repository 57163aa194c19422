//! Each fault has its documented effect on the wire and on the world.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod common;

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use common::{Client, PATIENCE, World, request};
use ec2_sim::{Event, Fault, FaultRule, Quota, RandomFaults, SimError, What, WrongRegion};
use time::OffsetDateTime;

/// Tags the instance under a fault; what the client saw and whether the tag is there.
fn tag_under(fault: &Fault) -> (std::io::Result<common::Reply>, bool) {
    let world = World::new();
    world.sim.add_fault(FaultRule::once("ec2:CreateTags", fault.clone())).unwrap();
    let parameters = [("ResourceId.1", world.instance.as_str()), ("Tag.1.Key", "k"), ("Tag.1.Value", "v")];
    let client = world.client();
    let reply = client.call("ec2", "CreateTags", &parameters);
    let tagged = !world.sim.instance_tags(&world.instance).unwrap().is_empty();
    let events = world.sim.events();
    assert_eq!(events.faults()[0].fault, fault.name());
    let call = events.attempts("ec2:CreateTags")[0];
    assert_eq!((call.done, call.fault.as_deref()), (tagged, Some(fault.name())));
    assert_eq!(events.calls("ec2:CreateTags").len(), usize::from(tagged));
    world.sim.clear_faults();
    let again = client.call("ec2", "CreateTags", &parameters).unwrap();
    assert_eq!(again.status, 200, "a fault ends after its count");
    (reply, tagged)
}

#[test]
fn an_error_is_answered_in_the_services_form() {
    let message = "not yet".to_owned();
    let (reply, tagged) = tag_under(&Fault::Error { http: 418, code: "Teapot".to_owned(), message });
    let reply = reply.unwrap();
    assert_eq!((reply.status, reply.element("Code").unwrap().as_str()), (418, "Teapot"));
    assert_eq!(reply.element("Message").unwrap(), "not yet");
    assert!(!tagged);
}

#[test]
fn a_server_error_is_a_500_without_effect() {
    let (reply, tagged) = tag_under(&Fault::ServerError);
    let reply = reply.unwrap();
    assert_eq!((reply.status, reply.element("Code").unwrap().as_str()), (500, "InternalError"));
    assert!(!tagged);
}

#[test]
fn a_reset_has_no_effect() {
    let (reply, tagged) = tag_under(&Fault::Reset);
    assert_eq!(reply.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert!(!tagged);
}

#[test]
fn a_lost_reply_has_its_effect() {
    let (reply, tagged) = tag_under(&Fault::LostReply);
    assert_eq!(reply.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert!(tagged);
}

#[test]
fn a_hang_is_never_answered() {
    let world = World::new();
    world.sim.add_fault(FaultRule::once("ec2:DescribeTags", Fault::Hang)).unwrap();
    let wait = Duration::from_millis(300);
    let reply = world.client().call_within("ec2", "DescribeTags", &[], wait);
    assert_eq!(reply.unwrap_err().kind(), ErrorKind::WouldBlock);
    // The client may have given up before the call was read.
    let called = |event: &Event| matches!(&event.what, What::Api(call) if call.action == "ec2:DescribeTags");
    world.sim.wait_for_blocking(called, PATIENCE).unwrap();
    let call = world.sim.events().attempts("ec2:DescribeTags")[0].clone();
    assert_eq!((call.http, call.done), (None, false));
}

#[test]
fn garbage_is_a_200_without_effect() {
    let (reply, tagged) = tag_under(&Fault::Garbage);
    let reply = reply.unwrap();
    assert_eq!((reply.status, reply.text().contains("<html>")), (200, true));
    assert!(!tagged);
}

#[test]
fn a_garbage_reply_has_its_effect() {
    let (reply, tagged) = tag_under(&Fault::GarbageReply);
    assert!(reply.unwrap().text().contains("<html>"));
    assert!(tagged);
}

#[test]
fn a_truncated_reply_ends_before_its_length_and_has_its_effect() {
    let (reply, tagged) = tag_under(&Fault::Truncated);
    assert_eq!(reply.unwrap_err().kind(), ErrorKind::UnexpectedEof);
    assert!(tagged);
}

#[test]
fn a_slow_call_takes_its_time() {
    let begun = Instant::now();
    let (reply, tagged) = tag_under(&Fault::Slow(Duration::from_millis(200)));
    assert_eq!(reply.unwrap().status, 200);
    assert!(begun.elapsed() >= Duration::from_millis(200));
    assert!(tagged);
}

#[test]
fn throttling_is_worded_by_each_service() {
    let world = World::new();
    world.sim.put_object("b", "k", "x");
    world.sim.add_fault(FaultRule::always("*", Fault::Throttling)).unwrap();
    let client = world.client();
    let ec2 = client.call("ec2", "DescribeVolumes", &[]).unwrap();
    assert_eq!((ec2.status, ec2.element("Code").unwrap().as_str()), (503, "RequestLimitExceeded"));
    let scaling = client.call("autoscaling", "DescribeAutoScalingInstances", &[]).unwrap();
    assert_eq!((scaling.status, scaling.element("Code").unwrap().as_str()), (400, "Throttling"));
    let s3 = client.get_object("/b/k", &[]).unwrap();
    assert_eq!((s3.status, s3.element("Code").unwrap().as_str()), (503, "SlowDown"));
    let url = world.sim.imds_url(&world.instance);
    let ttl = [("x-aws-ec2-metadata-token-ttl-seconds", "60")];
    let imds = request("PUT", &url, "/latest/api/token", &ttl, b"", PATIENCE).unwrap();
    assert_eq!(imds.status, 503);
}

#[test]
fn a_stale_answer_steps_back_in_time() {
    let world = World::new();
    world.sim.attach(&world.volume, &world.instance, "/dev/sdf").unwrap();
    let attached = |event: &ec2_sim::Event| matches!(&event.what, ec2_sim::What::Volume(change) if change.attachment.as_deref() == Some("attached"));
    world.sim.wait_for_blocking(attached, PATIENCE).expect("attached");
    let statuses = [("0", "attached"), ("1", "attaching"), ("2", "available"), ("9", "available")];
    for (back, expected) in statuses {
        let fault = Fault::Stale { back: back.parse().unwrap() };
        world.sim.add_fault(FaultRule::once("ec2:DescribeVolumes", fault)).unwrap();
        let reply = world.client().call("ec2", "DescribeVolumes", &[]).unwrap();
        assert!(reply.text().contains(&format!("<status>{expected}</status>")), "{back}");
    }
    let now = world.client().call("ec2", "DescribeVolumes", &[]).unwrap();
    assert!(now.text().contains("<status>attached</status>"));

    world.wait_lifecycle(&world.instance, "Pending:Wait");
    let rule = FaultRule::once("autoscaling:Describe*", Fault::Stale { back: 1 });
    world.sim.add_fault(rule).unwrap();
    let reply = world.client().call("autoscaling", "DescribeAutoScalingInstances", &[]).unwrap();
    assert_eq!(reply.element("LifecycleState").unwrap(), "Pending");
}

#[test]
fn a_rule_for_what_does_not_exist_is_refused() {
    let world = World::new();
    let refused = world.sim.add_fault(FaultRule::once("ec2:AttachVolumee", Fault::Reset));
    assert!(matches!(refused, Err(SimError::UnknownAction(_))));
}

#[test]
fn random_faults_strike_the_same_calls_with_the_same_seed() {
    let run = |seed| {
        let random = RandomFaults { kinds: vec![Fault::ServerError], ..RandomFaults::new(seed, 0.3) };
        let world = World::with(|config| config.random_faults = Some(random), |_| {});
        let client = world.client();
        let call = |_| client.call("ec2", "DescribeVolumes", &[]).unwrap().status;
        (0..60).map(call).collect::<Vec<_>>()
    };
    let first = run(7);
    assert_eq!(first, run(7));
    assert_ne!(first, run(8));
    let hits = first.iter().filter(|status| **status == 500).count();
    assert!((5..35).contains(&hits), "{hits}");
}

#[test]
fn an_empty_quota_throttles() {
    let quota = Quota { action: "ec2:Describe*".to_owned(), capacity: 3.0, refill_per_second: 0.001 };
    let world = World::with(|config| config.quotas.push(quota), |_| {});
    let client = world.client();
    let status = |_| client.call("ec2", "DescribeVolumes", &[]).unwrap().status;
    assert_eq!((0..5).map(status).collect::<Vec<_>>(), [200, 200, 200, 503, 503]);
    assert_eq!(world.sim.events().faults()[0].source, "quota ec2:Describe*");
}

#[test]
fn only_well_signed_requests_are_let_in() {
    let world = World::new();
    let good = world.client();
    let code =
        |client: &Client| client.call("ec2", "DescribeVolumes", &[]).unwrap().element("Code").unwrap_or_default();
    assert_eq!(code(&good), "");
    let mut wrong_secret = good.clone();
    wrong_secret.credentials.secret_access_key.push('x');
    assert_eq!(code(&wrong_secret), "SignatureDoesNotMatch");
    let mut unknown = good.clone();
    unknown.credentials.access_key_id = "AKIANOBODY".to_owned();
    assert_eq!(code(&unknown), "AuthFailure");
    let mut extra_token = good.clone();
    extra_token.credentials.session_token = Some("stolen".to_owned());
    assert_eq!(code(&extra_token), "AuthFailure");
    for minutes in [-6, 6] {
        let stamp = Some(OffsetDateTime::now_utc() + time::Duration::minutes(minutes));
        assert_eq!(code(&Client { stamp, ..good.clone() }), "RequestExpired");
    }
    let unsigned = request("GET", &good.url, "/b/k", &[], b"", PATIENCE).unwrap();
    assert_eq!((unsigned.status, unsigned.element("Code").unwrap().as_str()), (403, "AccessDenied"));
}

#[test]
fn objects_are_read_by_path_by_host_and_in_ranges() {
    let world = World::new();
    world.sim.put_object("bucket", "a dir/file", "0123456789");
    let client = world.client();
    let whole = client.get_object("/bucket/a%20dir/file", &[]).unwrap();
    assert_eq!((whole.status, whole.text().as_str()), (200, "0123456789"));
    // The MD5 of the ten digits.
    assert_eq!(whole.header("ETag"), Some("\"781e5e245d69b566979b86e28d23f2c7\""));
    let host = [("Host", "bucket.s3.eu-west-1.amazonaws.com")];
    assert_eq!(client.get_object("/a%20dir/file", &host).unwrap().text(), "0123456789");
    let part = client.get_object("/bucket/a%20dir/file", &[("Range", "bytes=2-4")]).unwrap();
    assert_eq!((part.status, part.text().as_str()), (206, "234"));
    assert_eq!(part.header("Content-Range"), Some("bytes 2-4/10"));
    let head = client.send("s3", "HEAD", "/bucket/a%20dir/file", &[], b"", PATIENCE).unwrap();
    assert_eq!((head.header("Content-Length"), head.body.len()), (Some("10"), 0));
    for (path, code) in [("/bucket/none", "NoSuchKey"), ("/none/none", "NoSuchBucket")] {
        let missing = client.get_object(path, &[]).unwrap();
        assert_eq!((missing.status, missing.element("Code").unwrap().as_str()), (404, code));
    }
}

#[test]
fn a_bucket_of_another_region_answers_as_s3_does_and_names_its_region() {
    let world = World::new();
    // The client signs for eu-west-1.
    for (bucket, answer) in [("moved", WrongRegion::Redirect), ("strict", WrongRegion::Malformed)] {
        world.sim.put_object(bucket, "key", "there");
        world.sim.place_bucket(bucket, "us-west-2", answer);
    }
    let client = world.client();
    let moved = client.get_object("/moved/key", &[]).unwrap();
    assert_eq!((moved.status, moved.header("x-amz-bucket-region")), (301, Some("us-west-2")));
    assert_eq!(moved.element("Code").as_deref(), Some("PermanentRedirect"));
    assert_eq!(moved.element("Endpoint").as_deref(), Some("moved.s3.us-west-2.amazonaws.com"));
    let strict = client.get_object("/strict/key", &[]).unwrap();
    assert_eq!((strict.status, strict.header("x-amz-bucket-region")), (400, None));
    assert_eq!(strict.element("Code").as_deref(), Some("AuthorizationHeaderMalformed"));
    assert_eq!(strict.element("Region").as_deref(), Some("us-west-2"));
    for (path, status) in [("/moved/key", 301), ("/strict/key", 400)] {
        let head = client.send("s3", "HEAD", path, &[], b"", PATIENCE).unwrap();
        assert_eq!((head.status, head.header("x-amz-bucket-region"), head.body.len()), (status, Some("us-west-2"), 0));
    }
    world.sim.place_bucket("moved", "eu-west-1", WrongRegion::Redirect);
    assert_eq!(client.get_object("/moved/key", &[]).unwrap().text(), "there");
}
