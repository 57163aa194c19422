//! The configurations of the nodes that are measured.

use std::fmt::Write;

use ec2_sim::{ActionResult, HookSpec, Transition, VolumeId};

pub(crate) const HOOK: &str = "bench-hook";
pub(crate) const TERMINATE_HOOK: &str = "bench-terminate-hook";
/// Where the hook script is on a node.
pub(crate) const SCRIPT: &str = "/usr/local/lib/node/hooks.sh";
pub(crate) const CONFIG: &str = "/etc/node-agent/config.toml";
/// The file in which the first hook says when it began, as bash tells the time.
pub(crate) const HOOKS_BEGAN: &str = "/run/hooks-began";
/// Hooks that do nothing else.
pub(crate) const HOOKS: &str = "configure_cluster_node() { echo \"$EPOCHREALTIME\" > /run/hooks-began; }\n\
                                wait_for_healthy_cluster() { :; }\n";
/// The bucket of the nodes' files.
pub(crate) const BUCKET: &str = "bench";

/// The name of a node's file in the bucket.
pub(crate) fn file_name(number: usize) -> String {
    format!("file-{number:03}")
}

/// The name that a volume is attached by. EC2 gives data volumes the letters f to p; the simulator takes the later ones, too.
pub(crate) fn device_name(number: u8) -> String {
    format!("/dev/sd{}", char::from(b'f' + number))
}

/// Where a volume is mounted.
pub(crate) fn mount_path(number: usize) -> String {
    if number == 0 { "/mydata".to_owned() } else { format!("/mydata-{number}") }
}

/// A node with these volumes and so many files from S3.
pub(crate) fn node(group: &str, volumes: &[VolumeId], file_system: &str, files: usize) -> String {
    let mut text = format!(
        "[node]\nid = \"00\"\nip = \"10.0.1.10\"\n\n\
         [lifecycle]\nasg_name = \"{group}\"\nhook_name = \"{HOOK}\"\n\n\
         [hooks]\nscript = \"{SCRIPT}\"\n"
    );
    for ((number, volume), letter) in volumes.iter().enumerate().zip(0..) {
        let (device, path) = (device_name(letter), mount_path(number));
        let _ = write!(
            text,
            "\n[[volume]]\nid = \"{volume}\"\ndevice_name = \"{device}\"\nmount_path = \"{path}\"\n\
             file_system = \"{file_system}\"\nmount_options = [\"noatime\"]\n"
        );
    }
    for number in 0..files {
        let name = file_name(number);
        let _ = write!(text, "\n[[file]]\ndestination = \"/etc/bench/{name}\"\nsource = \"s3://{BUCKET}/{name}\"\n");
    }
    text
}

/// A node with one volume, which can be told to go.
pub(crate) fn leaving(group: &str, volume: &VolumeId, detaches: bool) -> String {
    let hook = format!("hook_name = \"{HOOK}\"");
    node(group, std::slice::from_ref(volume), "xfs", 0)
        .replace(&hook, &format!("{hook}\nterminate_hook_name = \"{TERMINATE_HOOK}\""))
        .replace("[[volume]]\n", &format!("[[volume]]\ndetach_on_terminate = {detaches}\n"))
}

/// The launch hook.
pub(crate) fn launch_hook() -> HookSpec {
    HookSpec { name: HOOK.to_owned(), ..HookSpec::default() }
}

/// A launch hook and a termination hook.
pub(crate) fn both_hooks() -> Vec<HookSpec> {
    let terminate = HookSpec {
        name: TERMINATE_HOOK.to_owned(),
        transition: Transition::Terminating,
        default_result: ActionResult::Continue,
        ..HookSpec::default()
    };
    vec![launch_hook(), terminate]
}
