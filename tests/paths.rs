//! Paths through folders of a service user: root follows no symlink that this user has put there.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use support::{Instance, World, config_with, volume_at};

/// A file there, as `daemon`'s.
fn file(destination: &str) -> String {
    format!("[[file]]\ndestination = \"{destination}\"\ncontents = \"/evil\"\nowner = \"daemon\"\ngroup = \"daemon\"\n")
}

/// Does the work while another thread exchanges two paths of the node as fast as possible.
fn while_swapped(node: &Instance, one: &str, other: &str, work: impl FnOnce()) {
    struct Done<'a>(&'a AtomicBool);
    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let done = &AtomicBool::new(false);
    let swap = move || {
        while !done.load(Ordering::Relaxed) {
            renameat2(AT_FDCWD, one, AT_FDCWD, other, RenameFlags::RENAME_EXCHANGE).unwrap();
        }
    };
    thread::scope(|scope| {
        let _done = Done(done);
        scope.spawn(move || node.machine().inside(swap).unwrap());
        work();
    });
}

#[test]
fn a_symlink_in_a_folder_of_a_service_user_is_not_followed_by_root() {
    let world = World::new();
    let node = world.launch();
    // The last one lies below what is root's own, but somebody else can move that.
    for (folder, prepare, said) in [
        ("/opt/app", "chown daemon /opt/app", "/opt/app belongs to daemon"),
        ("/opt/group", "chgrp daemon /opt/group; chmod 775 /opt/group", "the group of /opt/group can write to it"),
        ("/opt/all", "chmod 1777 /opt/all", "everybody can write to /opt/all"),
        ("/opt/above/inner", "chown daemon /opt/above", "/opt/above belongs to daemon"),
    ] {
        node.shell(&format!("mkdir -p {folder} /etc/ld.so.conf.d; ln -s /etc/ld.so.conf.d {folder}/conf; {prepare}"));

        let outcome = node.run(&config_with("", &[], &file(&format!("{folder}/conf/evil.conf"))));

        let link = format!("{folder}/conf is a symlink to /etc/ld.so.conf.d");
        outcome.must_fail(6, &["step=files code=unsafe-path", &link, said, "root does not follow it"]);
        assert_eq!(node.shell("ls /etc/ld.so.conf.d/evil.conf 2>/dev/null || echo none"), "none");
    }
    assert!(world.completions().is_empty());
}

#[test]
fn links_of_roots_own_are_followed_and_a_link_at_the_destination_is_replaced() {
    let world = World::new();
    let node = world.launch();
    node.shell(
        "mkdir -p /opt/app-1.0/conf; ln -s app-1.0 /opt/app; chown daemon /opt/app-1.0/conf
         ln -s /etc/passwd /opt/app-1.0/conf/x",
    );
    let files = file("/opt/app/conf/x") + &file("/opt/app/conf/new/deep/x") + &file("/var/run/app/x");

    node.come_up(&config_with("", &[], &files));

    let listed = node.shell("stat -c '%F %U' /opt/app-1.0/conf/x /opt/app-1.0/conf/new/deep/x /run/app/x");
    assert_eq!(listed, ["regular file daemon"; 3].join("\n"));
    assert!(node.read("/etc/passwd").starts_with("root:"));
    assert_eq!(node.shell("stat -c '%a %U' /opt/app-1.0/conf/new /opt/app-1.0/conf/new/deep"), "755 root\n755 root");
    assert_eq!(node.shell("find /opt /run/app -name '.node-agent-*'"), "");
}

#[test]
fn a_folder_swapped_for_a_symlink_at_any_moment_never_leads_a_file_elsewhere() {
    let world = World::new();
    let node = world.launch();
    node.shell("mkdir -p /opt/app/conf /etc/secret; chown daemon:daemon /opt/app /opt/app/conf; ln -s /etc/secret /opt/app/link");
    let (mut written, mut refused) = (0, 0);
    while_swapped(&node, "/opt/app/conf", "/opt/app/link", || {
        for round in 0..30 {
            let config = config_with("", &[], &file("/opt/app/conf/x")).replace("/evil", &round.to_string());
            let lifecycle = "[lifecycle]\nasg_name = \"kafka-node-00\"\nhook_name = \"kafka-node-asg-hook\"";
            node.shell("rm -f /var/lib/node-agent/state.json");
            match node.run(&config.replace(lifecycle, "")).code {
                Some(0) => written += 1,
                Some(6) => refused += 1,
                other => panic!("{other:?}"),
            }
        }
    });
    println!("written {written} times, refused {refused} times");
    assert_eq!(node.shell("ls -A /etc/secret"), "");
}

#[test]
fn the_owner_is_changed_below_again_only_when_the_mount_points_own_differs() {
    let world = World::new();
    let volume = world.volume(1);
    let node = world.launch();
    let with = |owner: &str, recursive: &str| {
        let volume =
            volume_at("/mydata", &volume, "xfs").replace("owner = \"daemon\"", &format!("owner = \"{owner}\""));
        config_with("", &[format!("{volume}recursive = {recursive}\n")], "")
    };
    let owners = || node.shell("stat -c %U /mydata /mydata/dir /mydata/dir/file");
    let when = "\"when-owner-differs\"";
    node.come_up(&with("daemon", when));
    node.shell("mkdir /mydata/dir; echo > /mydata/dir/file; chown bin /mydata/dir/file");
    node.come_up(&with("daemon", when));
    assert_eq!(owners(), "daemon\nroot\nbin", "the mount point's owner is right");

    node.come_up(&with("nobody", when));
    assert_eq!(owners(), "nobody\nnobody\nnobody");

    node.come_up(&with("daemon", "false"));
    assert_eq!(owners(), "daemon\nnobody\nnobody");
    node.come_up(&with("daemon", "true"));
    assert_eq!(owners(), "daemon\ndaemon\ndaemon");
}

#[test]
fn a_recursive_owner_never_leaves_the_volume_whatever_is_swapped_meanwhile() {
    let world = World::new();
    let volume = world.volume(1);
    let node = world.launch();
    let text = volume_at("/mydata", &volume, "ext4") + "recursive = true\n";
    let config = config_with("", &[text], "");
    node.come_up(&config);
    node.shell(
        "mkdir -p /etc/secret/deep; echo > /etc/secret/deep/file
         mkdir -p /mydata/a/deep; for i in $(seq 200); do echo > /mydata/a/deep/$i; done
         ln -s /etc/secret /mydata/b; mkdir /mydata/other; mount -t tmpfs none /mydata/other; echo > /mydata/other/file",
    );
    while_swapped(&node, "/mydata/a", "/mydata/b", || {
        for _ in 0..20 {
            node.shell("find /mydata -xdev -exec chown -h root {} + 2>/dev/null || chown root /mydata");
            node.come_up(&config);
        }
    });
    node.come_up(&config);
    assert_eq!(node.shell("find /etc/secret /mydata/other ! -user root"), "");
    assert_eq!(node.shell("find /mydata -xdev ! -user daemon ! -path /mydata/other"), "");
}
