//! Accounts that only a name service (LDAP, SSSD) knows: the static binary's C library does not ask it, so the agent runs getent.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod support;

use std::time::{Duration, Instant};

use support::{Instance, World, config, volume_at, wait_until};

/// A node whose volume belongs to user `kafka` and group `brokers`, with this script in place of getent.
fn node(world: &World, getent: &str) -> (Instance, String) {
    let (node, volume) = world.node();
    node.write("/usr/sbin/getent", format!("#!/bin/bash\necho \"$@\" >> /var/log/getent\n{getent}\n"));
    node.shell("chmod 0755 /usr/sbin/getent");
    let volume = volume_at("/mydata", &volume, "xfs").replacen("daemon", "kafka", 1).replacen("daemon", "brokers", 1);
    let file = "[[file]]\ndestination = \"/etc/kafka/key\"\ncontents = \"k\"\nowner = \"kafka\"\ngroup = \"brokers\"\n";
    (node, config(&[volume + file]))
}

const DIRECTORY: &str = "case \"$1 $3\" in
  \"passwd kafka\") echo 'kafka:*:70001:70000:Kafka:/home/kafka:/bin/bash' ;;
  \"group brokers\") echo 'brokers:*:70002:kafka' ;;
  *) exit 2 ;;
esac";

#[test]
fn accounts_that_only_getent_knows_own_the_volume_and_its_files() {
    let world = World::new();
    let (node, config) = node(&world, DIRECTORY);

    node.come_up(&config);

    assert_eq!(node.shell("stat -c %u:%g /mydata"), "70001:70002");
    assert_eq!(node.shell("stat -c %u:%g /etc/kafka/key"), "70001:70002");
    let asked = node.read("/var/log/getent");
    assert!(asked.lines().all(|line| ["passwd -- kafka", "group -- brokers"].contains(&line)), "{asked}");
}

#[test]
fn an_account_that_nobody_knows_is_told_with_where_was_looked() {
    let world = World::new();
    let (node, config) = node(&world, "exit 2");

    node.run(&config).must_fail(
        5,
        &[
            "there is no user \"kafka\" on this host: it is neither in /etc/passwd nor known to getent (exit 2)",
            "there is no group \"brokers\" on this host: it is neither in /etc/group nor known to getent (exit 2)",
        ],
    );
    assert!(world.events().mutations().is_empty());
    let check = node.start_with(&["check"]).end();
    check.must_fail(5, &["neither in /etc/passwd nor known to getent (exit 2)"]);
    node.shell("rm /var/log/getent");
    let offline = node.start_with(&["check", "--offline"]).end();
    assert_eq!(offline.code, Some(0), "{}", offline.log);
    assert_eq!(node.shell("ls /var/log/getent 2>/dev/null || echo not asked"), "not asked");
}

#[test]
fn an_answer_that_is_not_about_the_account_gives_nobody_the_volume() {
    let world = World::new();
    let (node, config) = node(&world, "echo 'root:x:0:0:root:/root:/bin/bash'");

    node.run(&config).must_fail(5, &["the user \"kafka\" is not in /etc/passwd, and getent's answer is not about it"]);
}

#[test]
fn a_getent_that_hangs_is_killed_and_told_of_while_the_agent_stays_awake() {
    let world = World::new();
    let (node, config) = node(&world, "echo $$ > /run/getent.pid; exec sleep 600");
    let began = Instant::now();

    let outcome = node.run(&config);

    outcome.must_fail(5, &["the user \"kafka\" is not in /etc/passwd, and getent has not answered for 10 s"]);
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    wait_until(|| !node.is_alive("/run/getent.pid"), || "getent lives on".to_owned());
}

#[test]
fn without_getent_the_files_alone_count() {
    let world = World::new();
    let (node, config) = node(&world, "");
    node.shell("rm /usr/sbin/getent /usr/bin/getent");

    node.run(&config).must_fail(5, &["it is not in /etc/passwd, and getent is not installed"]);
    node.come_up(&config.replace("\"kafka\"", "\"daemon\"").replace("brokers", "daemon"));
}
