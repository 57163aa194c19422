//! Every mistake in a configuration is reported at once, before the agent touches anything.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod support;

use ec2_sim::InstanceSpec;
use support::{HOOKS, Instance, World, config, config_for, config_with, in_group, volume_at};

/// The agent called no AWS service, mounted nothing and wrote nothing.
fn must_be_untouched(world: &World, node: &Instance) {
    assert!(world.events().attempts("*").is_empty());
    assert_eq!(node.shell("ls /mydata /etc/kafka /var/lib/node-agent 2>/dev/null || echo none"), "none");
}

#[test]
fn every_mistake_is_in_one_report_with_its_place_and_remedy_and_nothing_is_touched() {
    let world = World::new();
    let node = world.launch();
    let config = r#"
[node]
id = 7
ip = "10.0.1"
nickname = "kafka"

[lifecycle]
asg_name = "kafka-node-00"
hook_nam = "kafka-node-asg-hook"

[[volume]]
id = "vol-0123456789abcdef0"
mount_path = "mydata"
file_system = "zfs"
owner = "nobody-knows-this-user"

[[volume]]
id = "vol-0123456789abcdef1"
mount_path = "/"

[[file]]
destination = "/etc/kafka/server.properties"
contents = "a"
contents_base64 = "b"
mode = 644

[[file]]
destination = "/etc/kafka/other"
contents_base64 = "%%%"

[timeouts]
aws = 300
"#;

    let outcome = node.run(config);

    let at = |line: usize, column: usize| format!("/etc/node-agent/config.toml:{line}:{column}: ");
    outcome.must_fail(
        5,
        &[
            &format!("{}[node] id: is a number, not a string; write id = \"7\"", at(3, 6)),
            &at(4, 6),
            &format!("{}[node]: unknown key \"nickname\"", at(5, 1)),
            &format!("{}[lifecycle]: unknown key \"hook_nam\"; write hook_name", at(9, 1)),
            &at(13, 14),
            "write \"/mydata\"",
            &at(14, 15),
            &at(15, 9),
            "nobody-knows-this-user",
            &at(19, 14),
            &at(25, 8),
            "write mode = \"0644\"",
            &at(29, 19),
            &at(32, 7),
            "write aws = \"300s\"",
            "[hooks]",
            "code=config-invalid",
        ],
    );
    must_be_untouched(&world, &node);
}

#[test]
fn a_hook_script_without_its_function_is_found_by_reading_it() {
    let world = World::new();
    let (node, volume) = world.node();
    node.hooks("touch /tmp/was-run\nconfigure_cluster_node() { true; }\n");

    let outcome = node.run(&config_for(&volume));

    outcome.must_fail(5, &["wait_for_healthy_cluster", "code=config-invalid"]);
    assert_eq!(node.shell("ls /tmp/was-run 2>/dev/null || echo none"), "none");
    must_be_untouched(&world, &node);
}

#[test]
fn a_fetched_hook_script_without_its_function_is_found_before_the_disk_is_touched() {
    let world = World::with(|config| config.latencies.attach = std::time::Duration::from_secs(3));
    let volume = world.volume(1);
    world.sim.put_object("config", "hooks.sh", "configure_cluster_node() { true; }\n");
    let node = world.launch();
    let config = config_for(&volume)
        .replace("script = \"/usr/local/lib/node/hooks.sh\"", "script_source = \"s3://config/hooks.sh\"");

    let outcome = node.run(&config);

    outcome.must_fail(5, &["step=files code=hook-missing", "wait_for_healthy_cluster"]);
    assert_eq!(node.shell("ls /mydata 2>/dev/null || echo none"), "none");
}

#[test]
fn a_fetched_hook_script_that_bash_cannot_read_is_told_as_that() {
    let world = World::with(|config| config.latencies.attach = std::time::Duration::from_secs(3));
    let volume = world.volume(1);
    world.sim.put_object("config", "hooks.sh", HOOKS.replace('\n', "\r\n"));
    let node = world.launch();
    let config = config_for(&volume)
        .replace("script = \"/usr/local/lib/node/hooks.sh\"", "script_source = \"s3://config/hooks.sh\"");

    let outcome = node.run(&config);

    outcome.must_fail(5, &["step=files code=hook-unusable", "s3://config/hooks.sh has Windows line endings (CRLF)"]);
    assert_eq!(node.shell("ls /mydata 2>/dev/null || echo none"), "none");
}

#[test]
fn user_data_that_was_encoded_twice_is_told_in_one_line() {
    use base64::Engine as _;
    let twice = base64::engine::general_purpose::STANDARD.encode(config_with("", &[], ""));
    let world = World::new();
    let user_data = Some(twice.into_bytes());
    let node = world.launch_as(InstanceSpec { user_data, ..in_group() });

    let outcome = node.run("source = \"imds\"\n");

    outcome.must_fail(5, &["code=config-invalid", "has 1 mistake", "user data:1:1: is base64 of the text, not TOML"]);
}

#[test]
fn a_span_of_months_is_warned_of_in_the_log() {
    let world = World::new();
    let node = world.launch();

    let outcome = node.run(&config_with("", &[], "[timeouts]\nhooks = \"5M\""));

    assert_eq!(outcome.code, Some(0), "{}", outcome.log);
    let warning = "[timeouts] hooks: \"5M\" is 5 months; if minutes are meant, write \"5m\"";
    assert_eq!(outcome.log.matches(warning).count(), 1, "{}", outcome.log);
}

#[test]
fn an_address_that_is_not_this_instances_is_refused() {
    let world = World::new();
    let volume = world.volume(1);
    let node = world
        .launch_as(InstanceSpec { private_ips: vec!["10.0.1.77".to_owned(), "10.0.1.78".to_owned()], ..in_group() });
    let config = config_for(&volume);

    node.run(&config).must_fail(6, &["step=identity code=wrong-node", "10.0.1.10", "10.0.1.77, 10.0.1.78"]);
    assert!(world.events().attempts("ec2:AttachVolume").is_empty());
    // A secondary address is as good.
    node.come_up(&config.replace("10.0.1.10", "10.0.1.78"));
}

#[test]
fn what_is_no_configuration_says_so() {
    let world = World::new();
    let node = world.launch();
    node.start_with(&["run", "--once"]).end().must_fail(5, &["code=config-unreadable", "/etc/node-agent/config.toml"]);
    node.start_with(&["run", "--once", "--config", "imds"]).end().must_fail(5, &["no user data"]);
    node.start_with(&["run", "--once", "--confg", "x"]).end().must_fail(2, &["--config"]);
}

#[test]
fn instance_metadata_that_is_switched_off_is_said_at_once() {
    let world = World::new();
    let node = world.launch_as(InstanceSpec { imds: false, ..in_group() });
    let switched_off = ["code=imds-refused", "answers 403", "switched off", "--http-endpoint enabled"];

    // Not an outage that passes, so the agent does not wait.
    let config = config_with("", &[], "[timeouts]\naws = \"1h\"");
    node.run(&config).must_fail(1, &switched_off);
    node.start_with(&["run", "--once", "--config", "imds"]).end().must_fail(1, &switched_off);
    assert!(world.events().attempts("*").is_empty());
}

#[test]
fn the_override_wins_key_by_key() {
    let world = World::new();
    let (node, volume) = world.node();
    node.write(
        "/etc/node-agent/override.toml",
        format!("[[volume]]\nid = \"{volume}\"\nmount_path = \"/repaired\"\n[node]\nid = \"01\"\n"),
    );

    node.come_up(&config_for(&volume));

    assert_eq!(node.shell("findmnt -no FSTYPE /repaired; findmnt /mydata || echo none"), "xfs\nnone");
    assert!(node.read("/var/log/hooks.log").starts_with("configure 01 10.0.1.10 /repaired\n"));
}

#[test]
fn user_data_is_taken_plain_and_gzipped() {
    let config = config_with("", &[], "");
    let gzip = |text: &str| {
        let mut child = std::process::Command::new("gzip")
            .arg("-c")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), text.as_bytes()).unwrap();
        child.wait_with_output().unwrap().stdout
    };
    for user_data in [config.clone().into_bytes(), gzip(&config)] {
        let world = World::new();
        let node = world.launch_as(InstanceSpec { user_data: Some(user_data), ..in_group() });
        // A file that says only where the configuration is means the same as the option.
        let outcome = node.run("source = \"imds\"\n");
        assert_eq!(outcome.code, Some(0), "{}", outcome.log);
        assert_eq!(world.completions(), ["CONTINUE"]);
        let again = node.start_with(&["run", "--once", "--config", "imds"]).end();
        assert_eq!(again.code, Some(0), "{}", again.log);
    }
}

#[test]
fn a_locked_package_manager_is_waited_for_until_it_is_free() {
    let world = World::new();
    let (node, volume) = world.node();
    let lock = "E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 1021 (apt-get)\n\
                E: Unable to acquire the dpkg frontend lock (/var/lib/dpkg/lock-frontend), is another process using it?";
    // The lock is held at the first two tries, as by cloud-init on a first boot; the third try installs.
    node.shell("mkdir -p /opt/real; cp -L /usr/sbin/mkfs.ext4 /opt/real/; rm /usr/sbin/mkfs.ext4; rm -f /usr/bin/dnf /usr/bin/yum");
    node.write(
        "/opt/apt-get",
        format!(
            "#!/bin/bash\n[[ $* = *install* ]] || exit 0\necho \"$*\" >> /var/log/installs\n\
             if (( $(wc -l < /var/log/installs) < 3 )); then\n  echo '{lock}' >&2\n  exit 100\nfi\n\
             cp /opt/real/mkfs.ext4 /usr/sbin/mkfs.ext4\n"
        ),
    );
    node.shell("rm -f /usr/bin/apt-get; cp /opt/apt-get /usr/bin/apt-get; chmod +x /usr/bin/apt-get");
    let volumes = [format!("{}install_tools = true\n", volume_at("/mydata", &volume, "ext4"))];

    let outcome = node.run(&config(&volumes));

    assert_eq!(outcome.code, Some(0), "{}", outcome.log);
    assert!(outcome.log.contains("is locked by another process"), "{}", outcome.log);
    assert_eq!(node.read("/var/log/installs").lines().count(), 3);
    assert_eq!(node.shell("findmnt -no FSTYPE /mydata"), "ext4");

    // A lock that is held until the step's deadline: the failure names its holder.
    node.shell("umount /mydata; rm /usr/sbin/mkfs.ext4; rm -r /var/lib/node-agent");
    node.write("/usr/bin/apt-get", format!("#!/bin/bash\necho '{lock}' >&2\nexit 100\n"));
    let other = world.volume(1);
    let volumes = [format!("{}install_tools = true\n", volume_at("/mydata", &other, "ext4"))];
    let outcome = node.run(&config_with("", &volumes, "[timeouts]\nvolume = \"4s\""));
    outcome.must_fail(1, &["step=filesystem code=installer-busy", "gave up after", "held by process 1021"]);
}
