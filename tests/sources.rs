//! Files and scripts from elsewhere: checked before anything is written.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod support;

use std::time::Duration;

use ec2_sim::{Fault, FaultRule, WrongRegion};
use support::{CA, HOOKS, World, config_with, volume_at};

const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn config(hooks: &str, files: &str) -> String {
    let config = config_with("", &[], "[timeouts]\ndownloads = \"10s\"");
    let start = config.find("[[file]]").unwrap();
    let end = config.find("[timeouts]").unwrap();
    format!("{}{files}\n[hooks]\n{hooks}\n{}", &config[..start], &config[end..])
}

const LOCAL: &str = "script = \"/usr/local/lib/node/hooks.sh\"";

#[test]
fn files_come_from_every_kind_of_source_with_mode_and_owner() {
    let world = World::new();
    let large = vec![b'x'; 8 << 20];
    world.sim.put_object("config", "dir/large file", large.clone());
    let url = world.sim.put_page("/page", "from the web");
    let node = world.launch();
    node.write("/srv/local", "from here");
    node.shell("mkdir -p /etc/app; ln -s /etc/passwd /etc/app/page; touch /etc/app/.node-agent-left-by-a-killed-one");

    node.come_up(&config(
        LOCAL,
        &format!(
            r#"
[[file]]
destination = "/etc/app/large"
source = "s3://config/dir/large file"
mode = "0600"
[[file]]
destination = "/etc/app/page"
source = "{url}"
owner = "daemon"
group = "daemon"
[[file]]
destination = "/opt/new/dir/local"
source = "file:///srv/local"
"#
        ),
    ));

    assert_eq!(node.read("/etc/app/page"), "from the web");
    assert_eq!(node.read("/opt/new/dir/local"), "from here");
    assert_eq!(node.read("/etc/app/large").len(), large.len());
    // A symlink at the destination is replaced, not followed.
    let listed = node.shell("stat -c '%a %U %F' /etc/app/large /etc/app/page; head -c 5 /etc/passwd; ls -A /etc/app");
    assert_eq!(listed, "600 root regular file\n644 daemon regular file\nroot:large\npage");
    assert_eq!(node.shell("ls -A /var/lib/node-agent/fetched"), "");
}

#[test]
fn one_wrong_checksum_keeps_all_files_from_being_written() {
    let world = World::new();
    world.sim.put_object("config", "a", "contents");
    let node = world.launch();

    let outcome = node.run(&config(
        LOCAL,
        &format!(
            r#"
[[file]]
destination = "/etc/app/first"
contents = "first"
[[file]]
destination = "/etc/app/second"
source = "s3://config/a"
sha256 = "{EMPTY_SHA256}"
"#
        ),
    ));

    outcome.must_fail(1, &["step=files code=checksum-mismatch", "s3://config/a", EMPTY_SHA256]);
    assert_eq!(node.shell("ls /etc/app 2>/dev/null || echo none"), "none");
}

#[test]
fn a_source_that_does_not_exist_fails_at_once_and_names_it() {
    let world = World::new();
    let url = world.sim.put_page("/there", "x").replace("/there", "/not-there");
    let node = world.launch();
    for source in ["s3://config/none", url.as_str(), "file:///none"] {
        let file = format!("[[file]]\ndestination = \"/etc/app/x\"\nsource = \"{source}\"\n");
        let outcome = node.run(&config(LOCAL, &file));
        outcome.must_fail(1, &["step=files code=download-failed", source]);
        assert!(outcome.took < Duration::from_secs(20), "{source}: {:?}", outcome.took);
    }
}

/// `HOOKS` in base64.
fn embedded() -> String {
    let script = HOOKS.replace("configure $1", "embedded $1");
    let mut child = std::process::Command::new("base64")
        .arg("-w0")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), script.as_bytes()).unwrap();
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
}

#[test]
fn the_embedded_script_runs_where_its_source_is_missing_empty_or_unreachable() {
    let both = format!("script_source = \"s3://config/hooks.sh\"\nscript_base64 = \"{}\"", embedded());
    type Arrange = fn(&World);
    let cases: [(&str, Arrange, &str); 4] = [
        ("missing", |_| {}, "embedded"),
        ("empty", |world| world.sim.put_object("config", "hooks.sh", ""), "embedded"),
        (
            "unreachable",
            |world| {
                world.sim.put_object("config", "hooks.sh", HOOKS);
                world.sim.add_fault(FaultRule::always("s3:GetObject", Fault::Reset)).unwrap();
            },
            "embedded",
        ),
        ("there", |world| world.sim.put_object("config", "hooks.sh", HOOKS), "configure"),
    ];
    for (name, arrange, ran) in cases {
        let world = World::new();
        arrange(&world);
        let node = world.launch();
        let outcome = node.come_up(&config(&both, ""));
        assert_eq!(
            outcome.log.contains("falling back to hooks.script_base64"),
            ran == "embedded",
            "{name}: {}",
            outcome.log
        );
        assert!(node.read("/var/log/hooks.log").starts_with(ran), "{name}");
    }
}

#[test]
fn a_script_with_another_checksum_is_never_run_nor_replaced_by_the_embedded_one() {
    let world = World::new();
    world.sim.put_object("config", "hooks.sh", HOOKS);
    let node = world.launch();
    let hooks = format!(
        "script_source = \"s3://config/hooks.sh\"\nscript_base64 = \"{}\"\nscript_sha256 = \"{EMPTY_SHA256}\"",
        embedded()
    );

    node.run(&config(&hooks, "")).must_fail(1, &["code=checksum-mismatch"]);

    assert_eq!(node.shell("ls /var/log/hooks.log 2>/dev/null || echo none"), "none");
}

#[test]
fn an_https_server_that_nobody_vouches_for_is_not_believed() {
    let world = World::new();
    let url = world.sim.put_page("/page", "from the web");
    let node = world.launch();
    // Any other authority.
    node.shell("cp $(ls /etc/ssl/certs/*.pem | head -1) /etc/ssl/simulator.pem");
    let file = format!("[[file]]\ndestination = \"/etc/app/x\"\nsource = \"{url}\"\n");

    node.run(&config(LOCAL, &file)).must_fail(1, &["step=files", "code=certificate-untrusted"]);

    assert_eq!(node.shell("ls /etc/app 2>/dev/null || echo none"), "none");
}

#[test]
fn a_service_with_an_untrusted_certificate_is_told_from_one_that_is_away() {
    let world = World::new();
    let volume = world.volume(1);
    let page = world.sim.put_page("/", "any https server will do");
    let node = world.launch();
    // As in an image without the package.
    node.write(CA, "");
    let text = config_with("", &[volume_at("/mydata", &volume, "xfs")], "[timeouts]\naws = \"8s\"");
    node.configure(text);

    let output = node.agent(&["run", "--once"]).env("AWS_ENDPOINT_URL_EC2", page).output().unwrap();

    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for text in ["step=attach code=certificate-untrusted", "ec2:DescribeVolumes", "install the CA certificates"] {
        assert!(said.contains(text), "{text:?} is missing in\n{said}");
    }
}

#[test]
fn a_bucket_in_another_region_is_read_there() {
    let world = World::new();
    world.sim.put_object("config", "hooks.sh", HOOKS);
    world.sim.put_object("strict", "file", "from far away");
    world.sim.place_bucket("config", "us-west-2", WrongRegion::Redirect);
    world.sim.place_bucket("strict", "ap-southeast-2", WrongRegion::Malformed);
    let node = world.launch();
    let hooks = format!("script_source = \"s3://config/hooks.sh\"\nscript_base64 = \"{}\"", embedded());
    let file = "[[file]]\ndestination = \"/etc/app/x\"\nsource = \"s3://strict/file\"\n";

    let outcome = node.come_up(&config(&hooks, file));

    assert!(!outcome.log.contains("falling back"), "{}", outcome.log);
    assert!(node.read("/var/log/hooks.log").starts_with("configure"));
    assert_eq!(node.read("/etc/app/x"), "from far away");
}

#[test]
fn a_bucket_elsewhere_that_cannot_be_read_fails_at_once_and_names_both_regions() {
    let redirect = |code: &str| Fault::Error { http: 301, code: code.to_owned(), message: "Elsewhere.".to_owned() };
    let again = FaultRule::always("s3:GetObject", redirect("PermanentRedirect")).after(1);
    let nowhere = FaultRule::always("s3:GetObject", redirect("PermanentRedirect"));
    // The region that S3 names, what goes wrong, and what must be said.
    let cases = [
        ("us-west-2", Some(again), vec!["config", "is in us-west-2", "eu-west-1"]),
        ("eu-west-1", Some(nowhere), vec!["config", "is in another region", "eu-west-1"]),
        ("evil.example.com/", None, vec!["config", "evil.example.com/", "is not a region"]),
    ];
    for (region, fault, said) in cases {
        let world = World::new();
        world.sim.put_object("config", "hooks.sh", HOOKS);
        world.sim.place_bucket("config", region, WrongRegion::Redirect);
        if let Some(fault) = fault {
            world.sim.add_fault(fault).unwrap();
        }
        let node = world.launch();
        let hooks = format!("script_source = \"s3://config/hooks.sh\"\nscript_base64 = \"{}\"", embedded());

        let outcome = node.run(&config(&hooks, ""));

        outcome.must_fail(1, &["step=files code=bucket-elsewhere"]);
        outcome.must_fail(1, &said);
        assert!(outcome.took < Duration::from_secs(20), "{:?}", outcome.took);
        assert!(!outcome.log.contains("falling back"), "{}", outcome.log);
        assert_eq!(node.shell("ls /var/log/hooks.log 2>/dev/null || echo none"), "none");
        assert!(world.completions().is_empty());
    }
}

#[test]
fn the_embedded_script_does_not_stand_in_for_a_bucket_whose_region_is_out_of_reach() {
    let world = World::new();
    world.sim.put_object("config", "hooks.sh", HOOKS);
    world.sim.place_bucket("config", "us-west-2", WrongRegion::Redirect);
    world.sim.add_fault(FaultRule::always("s3:GetObject", Fault::Throttling).after(1)).unwrap();
    let node = world.launch();
    let hooks = format!("script_source = \"s3://config/hooks.sh\"\nscript_base64 = \"{}\"", embedded());
    let text = config(&hooks, "").replace("downloads = \"10s\"", "downloads = \"2s\"");

    let outcome = node.run(&text);

    outcome.must_fail(1, &["step=files code=bucket-unreachable", "us-west-2", "SlowDown"]);
    assert!(!outcome.log.contains("falling back"), "{}", outcome.log);
    assert!(world.completions().is_empty());
}

#[test]
fn a_web_server_that_leads_astray_is_refused_at_once() {
    let world = World::new();
    let signed = "?X-Amz-Signature=SECRET";
    let loops = world.sim.put_redirect("/loop", None);
    world.sim.put_redirect("/loop", Some(&format!("{loops}{signed}")));
    let plain =
        world.sim.put_redirect("/plain", Some("http://user:SECRET@example.com/hooks.sh?X-Amz-Signature=SECRET"));
    let lost = world.sim.put_redirect("/lost", None);
    let cases = [
        (&loops, "redirects in a loop, back to", "loop"),
        (&plain, "unencrypted address: http://example.com/hooks.sh?…", "https"),
        (&lost, "302 Found", "without a new address"),
    ];
    for (url, said, more) in cases {
        let node = world.launch();
        let hooks = format!("script_source = \"{url}{signed}\"\nscript_base64 = \"{}\"", embedded());

        let outcome = node.run(&config(&hooks, ""));

        outcome.must_fail(1, &["step=files code=redirect-refused", url, said, more]);
        assert!(outcome.took < Duration::from_secs(10), "{:?}", outcome.took);
        for never in ["SECRET", "falling back", "DNS"] {
            assert!(!outcome.log.contains(never), "{never:?} in\n{}", outcome.log);
        }
        node.terminate();
    }
}

#[test]
fn a_redirect_to_another_page_by_https_is_followed() {
    let world = World::new();
    world.sim.put_page("/hooks.sh", HOOKS);
    let url = world.sim.put_redirect("/latest", Some("/hooks.sh"));
    let node = world.launch();

    node.come_up(&config(&format!("script_source = \"{url}\""), ""));

    assert!(node.read("/var/log/hooks.log").starts_with("configure"));
}

#[test]
fn the_query_of_a_presigned_url_is_in_no_message() {
    let world = World::new();
    let url = world.sim.put_page("/there", HOOKS);
    world.sim.add_fault(FaultRule::always("https:GET /*", Fault::Reset)).unwrap();
    let node = world.launch();
    let hooks = format!("script_source = \"{url}?X-Amz-Signature=SECRET\"");

    let outcome = node.run(&config(&hooks, "").replace("downloads = \"10s\"", "downloads = \"1s\""));

    outcome.must_fail(1, &["code=api-unreachable", &url]);
    assert!(!outcome.log.contains("SECRET"), "{}", outcome.log);
}
