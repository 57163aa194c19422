//! The scenarios do not depend on the host: they see none of its folders, and the target folder may be anywhere.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod support;

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{chdir, pivot_root};
use support::{AGENT, HOOKS_PATH, World, config_for};

/// Paths that a host may already have.
const OWN: [&str; 10] = [
    "/mydata/data",
    "/var/lib/node-agent/state.json",
    "/var/log/hooks.log",
    "/etc/kafka/server.properties",
    "/etc/node-agent/override.toml",
    "/etc/fstab",
    "/home/somebody/file",
    "/root/file",
    "/opt/app/file",
    "/srv/file",
];
/// Folders of the host in which [`OWN`] lies, and which are therefore replaced.
const REPLACED: [&str; 7] = ["etc", "home", "opt", "root", "srv", "var", "tmp"];

/// A private mount namespace with an empty /tmp. Returns the agent, whose file may have been there.
fn alone() -> File {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    let agent = File::open(AGENT.as_str()).unwrap();
    hide("/tmp");
    agent
}

fn hide(dir: &str) {
    mount(Some("tmpfs"), dir, Some("tmpfs"), MsFlags::empty(), Some("mode=0755")).unwrap();
}

/// Lets this thread see a host like this one, the agent in its place, but with [`OWN`].
fn enter_a_host_with_folders_of_its_own() {
    let agent = alone();
    let none = None::<&str>;
    let root = Path::new("/tmp/root");
    fs::create_dir(root).unwrap();
    mount(Some(root), root, none, MsFlags::MS_BIND, none).unwrap();
    for entry in fs::read_dir("/").unwrap() {
        let (from, name) = (entry.as_ref().unwrap().path(), entry.unwrap().file_name());
        let to = root.join(&name);
        if from.is_symlink() {
            symlink(fs::read_link(&from).unwrap(), to).unwrap();
        } else if REPLACED.iter().any(|replaced| **replaced == *name) {
            fs::create_dir(to).unwrap();
        } else if from.is_dir() {
            fs::create_dir(&to).unwrap();
            mount(Some(&from), &to, none, MsFlags::MS_BIND | MsFlags::MS_REC, none).unwrap();
        }
    }
    assert!(Command::new("cp").args(["-a", "/etc/.", "/tmp/root/etc"]).status().unwrap().success());
    let place = root.join(AGENT.trim_start_matches('/'));
    if !place.exists() {
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        File::create(&place).unwrap();
        let agent = format!("/proc/self/fd/{}", agent.as_raw_fd());
        mount(Some(agent.as_str()), &place, none, MsFlags::MS_BIND, none).unwrap();
    }
    chdir(root).unwrap();
    pivot_root(".", ".").unwrap();
    umount2(".", MntFlags::MNT_DETACH).unwrap();
    chdir("/").unwrap();
    for path in OWN {
        fs::create_dir_all(Path::new(path).parent().unwrap()).unwrap();
        fs::write(path, "the host's own").unwrap();
    }
}

#[test]
fn a_host_that_is_a_node_itself_makes_no_difference_to_a_machine() {
    enter_a_host_with_folders_of_its_own();
    let world = World::new();
    let (node, volume) = world.node();
    let seen = node.shell(&format!("for path in {}; do [ ! -e $path ] || echo $path; done", OWN.join(" ")));
    assert_eq!(seen, "/etc/fstab", "of all this a machine has only a file of its own");
    assert_eq!(node.read("/etc/fstab"), "");
    let made = ["/usr/local/bin", "/usr/local/lib", "/usr/local/lib/node", HOOKS_PATH];
    assert_eq!(node.shell("find /usr/local -mindepth 1 | sort").lines().collect::<Vec<_>>(), made);
    node.come_up(&config_for(&volume));
    assert_eq!(node.shell("ls -A /mydata"), "");
    for path in OWN {
        assert_eq!(fs::read_to_string(path).unwrap(), "the host's own", "{path}");
    }
}

/// The smallest scenario, for the test below.
#[test]
fn the_agent_is_on_every_machine() {
    // It hides the host's /tmp from the next one of the same thread.
    let _first = World::new();
    let world = World::new();
    let node = world.launch();
    let version = node.agent(&["--version"]).output().unwrap();
    assert!(version.status.success() && version.stdout.starts_with(b"node-agent "), "{version:?}");
}

#[test]
fn a_target_folder_that_was_moved_below_tmp_still_has_its_agent() {
    let test = std::env::current_exe().unwrap();
    let (mut agent, mut program) = (alone(), File::open("/proc/self/exe").unwrap());
    for (file, to) in [(&mut agent, "node-agent"), (&mut program, "deps/host")] {
        let to = Path::new("/tmp/moved/debug").join(to);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::io::copy(file, &mut File::create(&to).unwrap()).unwrap();
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755)).unwrap();
    }
    // The folder that it was built in is gone.
    let built = test.parent().and_then(Path::parent).filter(|dir| dir.exists());
    built.inspect(|dir| hide(dir.to_str().unwrap()));

    let run = |agent: Option<&str>| {
        let mut command = Command::new("/tmp/moved/debug/deps/host");
        command.args(["--exact", "the_agent_is_on_every_machine"]).env_remove("NODE_AGENT").stdin(Stdio::null());
        let output = command.envs(agent.map(|agent| ("NODE_AGENT", agent))).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("1 passed"), "{agent:?}: {said}\n{error}");
    };
    run(None);
    run(Some("/tmp/moved/debug/node-agent"));
}
