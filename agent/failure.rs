//! What went wrong, as the person paged reads it: what happened, what was seen, what to do next.
//!
//! Every way in which the agent fails stands in one catalogue, [`Code`], with its class and the usual remedy. The class
//! decides what the runner does (try again, give up) and the exit code; nothing else looks at messages.

use std::error::Error;
use std::fmt;

/// How a failure is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The other side cannot be reached or is overloaded: tried again while outages are ridden out.
    Outage,
    /// Not yet so, but may become so by itself: tried again to the step's deadline.
    Waiting,
    /// Probably eventual consistency: tried again for [`crate::step::SETTLING`], then final.
    Settling,
    /// Trying again would give the same.
    Permanent,
    /// Going on could lose data or take it from somebody.
    Safety,
    /// As [`Class::Safety`] in the end, but may become free by itself: waited for to the deadline.
    SafetyWaiting,
    /// The configuration is wrong.
    Config,
    /// Another process holds the lock.
    Locked,
    /// The lifecycle action is lost: timed out, or the instance is being terminated.
    LifecycleLost,
    /// As [`Class::LifecycleLost`] in the end, but may resolve by itself: waited for to the deadline.
    LifecycleWaiting,
    /// Told to stop before the end.
    Stopped,
}

impl Class {
    /// The process's exit code when a run ends with a failure of this class.
    pub fn exit_code(self) -> u8 {
        match self {
            Class::Outage | Class::Waiting | Class::Settling | Class::Permanent => 1,
            Class::Stopped => 3,
            Class::Locked => 4,
            Class::Config => 5,
            Class::Safety | Class::SafetyWaiting => 6,
            Class::LifecycleLost | Class::LifecycleWaiting => 7,
        }
    }
}

macro_rules! catalogue {
    ($($(#[doc = $doc:literal])+ $variant:ident $name:literal $class:ident $remedy:literal;)+) => {
        /// Every way in which the agent fails.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Code { $($(#[doc = $doc])+ $variant,)+ }

        impl Code {
            /// All of them, in the order of the boot sequence.
            pub const ALL: &[Code] = &[$(Code::$variant,)+];

            /// The stable name, for machines.
            pub fn name(self) -> &'static str {
                match self { $(Code::$variant => $name,)+ }
            }

            /// How a failure of this kind is treated.
            pub fn class(self) -> Class {
                match self { $(Code::$variant => Class::$class,)+ }
            }

            /// What to do about it, unless the failure knows better.
            pub fn remedy(self) -> &'static str {
                match self { $(Code::$variant => $remedy,)+ }
            }

            /// When it happens.
            pub fn meaning(self) -> &'static str {
                match self { $(Code::$variant => concat!($($doc,)+).trim_ascii(),)+ }
            }
        }
    };
}

catalogue! {
    /// The configuration has mistakes.
    ConfigInvalid "config-invalid" Config "correct the lines named above, then run the agent again";
    /// The configuration cannot be read.
    ConfigUnreadable "config-unreadable" Config "put the configuration there, or name it with --config PATH";
    /// Another agent is at work on this machine.
    Locked "locked" Locked "wait until it ends, then: node-agent run --once";
    /// The agent is at work on another request.
    Busy "busy" Locked "wait until it ends: node-agent status --wait";
    /// The resident service has gone away in the course of a request.
    ServiceGone "service-gone" Stopped "look what it did: node-agent status, and its log: journalctl -u node-agent";
    /// The state directory cannot be used.
    StateUnusable "state-unusable" Permanent "make the directory writable and give it space, then run the agent again";
    /// A step's time is over.
    OutOfTime "out-of-time" Permanent "find out what it waits for, or raise the step's time in [timeouts], then: node-agent run --once";
    /// What a step did has no effect that can be seen.
    NoEffect "no-effect" Waiting "the service may show old state; if it lasts, look at its console, then: node-agent run --once";
    /// The agent cannot be installed as asked for.
    InstallImpossible "install-impossible" Permanent "see node-agent install --help";
    /// A plan has come to something that must be done before more can be known.
    NotKnownYet "not-known-yet" Permanent "make the plan again when it is done";
    /// The agent was told to stop.
    Stopped "stopped" Stopped "nothing was completed; the next start resumes";
    /// The instance metadata service does not answer.
    ImdsUnreachable "imds-unreachable" Outage "check that the instance's metadata options have HttpEndpoint enabled and IMDSv2 allowed, and that no firewall blocks 169.254.169.254";
    /// The instance metadata service answers, but refuses.
    ImdsRefused "imds-refused" Permanent "set the instance's metadata options: HttpEndpoint enabled, hop limit at least 1";
    /// The instance metadata service lacks something every instance has.
    ImdsIncomplete "imds-incomplete" Waiting "check that this machine is an EC2 instance";
    /// The configured address is none of this instance's.
    WrongNode "wrong-node" Safety "this instance must not take that node's data: attach the node's network interface, or correct node.ip";
    /// An AWS service cannot be reached, or its answer cannot be read.
    ApiUnreachable "api-unreachable" Outage "check the route, DNS, the security group and the VPC endpoints of the instance";
    /// An AWS service throttles or has an internal error.
    ApiOverloaded "api-overloaded" Outage "wait; if it lasts, look at the account's request quotas and the service's status page";
    /// The instance's credentials are not accepted or not there.
    Credentials "credentials" Settling "check the instance profile, its role's trust policy and the clock";
    /// IAM does not allow an action.
    AccessDenied "access-denied" Settling "allow the action in the instance role's policy";
    /// An AWS service refuses a request for a reason of its own.
    ApiRefused "api-refused" Permanent "see the service's message; correct the cause, then: node-agent run --once";
    /// The volume does not exist.
    VolumeNotFound "volume-not-found" Settling "correct volume.id, or restore the volume";
    /// The instance is not known to EC2.
    InstanceNotFound "instance-not-found" Settling "wait; EC2 should know its own instance within a minute";
    /// The volume is in another availability zone.
    ZoneMismatch "zone-mismatch" Permanent "start the instance in the volume's zone, or copy the volume there by a snapshot";
    /// The volume cannot be used in its present state.
    VolumeUnusable "volume-unusable" Permanent "restore the volume, or correct volume.id";
    /// The volume is on its way to the wanted state.
    VolumeInTransit "volume-in-transit" Waiting "look at the volume in the EC2 console; when it is attached or free, then: node-agent run --once";
    /// Another instance has the volume.
    VolumeHeld "volume-held" SafetyWaiting "stop using the volume there and detach it, or terminate that instance, then: node-agent run --once";
    /// The volume can be attached to several instances at once.
    MultiAttach "multi-attach" Safety "ext4 and XFS cannot be shared: switch Multi-Attach off on the volume";
    /// All device names are taken.
    NoDeviceName "no-device-name" Permanent "detach a volume that is not needed, then: node-agent run --once";
    /// Too many volumes are attached to the instance.
    AttachmentLimit "attachment-limit" Permanent "detach a volume that is not needed or use a larger instance type, then: node-agent run --once";
    /// The volume's encryption keeps it from being attached.
    EncryptionRefused "encryption-refused" Permanent "enable the key, or use an instance type that supports encrypted volumes";
    /// The attached volume's device does not appear.
    DeviceMissing "device-missing" Waiting "look at the kernel's log; a reboot of the instance often makes the device appear";
    /// A device is not what its name says.
    DeviceUntrusted "device-untrusted" Safety "find out which device is the volume; a stale link under /dev/disk/by-id goes away with: udevadm trigger";
    /// The device's size is not what EC2 says.
    DeviceSize "device-size" SafetyWaiting "compare the volume in the EC2 console with lsblk; it must be the same volume";
    /// Another process works on the device.
    DeviceBusy "device-busy" SafetyWaiting "find the process with `lsof DEVICE` and wait for it, then: node-agent run --once";
    /// The device cannot be read.
    DeviceUnreadable "device-unreadable" Safety "an unreadable disk is not a blank one: look at the kernel's log and the volume's status checks";
    /// The disk is neither proven blank nor a filesystem that can be used.
    NotBlank "not-blank" Safety "find out what is on the disk; only if it is not needed: wipefs -a DEVICE, blkdiscard -z DEVICE, then: node-agent run --once";
    /// The disk is blank although it must not be.
    UnexpectedlyBlank "unexpectedly-blank" Safety "this may be data loss: check volume.id and the volume's history; to format it on purpose set format = \"if-blank\" on a volume made without a snapshot";
    /// The disk has a filesystem of another type than configured.
    WrongFilesystem "wrong-filesystem" Safety "set volume.file_system to what is on the disk; the agent never converts or overwrites";
    /// A program the agent needs is missing.
    ToolMissing "tool-missing" Permanent "install the package that has it in the image, or set install_tools = true";
    /// A program the agent started failed.
    ToolFailed "tool-failed" Permanent "see the program's message; correct the cause, then: node-agent run --once";
    /// The filesystem check found damage it does not repair by itself.
    FilesystemDamaged "filesystem-damaged" Safety "take a snapshot of the volume first, then repair by hand with e2fsck";
    /// Something else stands in the mount point's place.
    MountPointTaken "mount-point-taken" Safety "move it away, or use another mount_path, then: node-agent run --once";
    /// /etc/fstab has a line of somebody else's for the mount point.
    FstabConflict "fstab-conflict" Safety "remove that line from /etc/fstab, then: node-agent run --once";
    /// The kernel refuses the mount.
    MountFailed "mount-failed" Permanent "see the kernel's log for the filesystem's own message, then: node-agent run --once";
    /// A local file operation failed.
    LocalIo "local-io" Permanent "correct the cause, then: node-agent run --once";
    /// A user or group does not exist.
    UnknownAccount "unknown-account" Config "create the account in the image, or give its number";
    /// A file or script cannot be fetched.
    DownloadFailed "download-failed" Permanent "check the source and who may read it, then: node-agent run --once";
    /// A file or script is not what its checksum says.
    ChecksumMismatch "checksum-mismatch" Permanent "restore the source, or correct sha256, then: node-agent run --once";
    /// A file or script is larger than the limit.
    DownloadTooLarge "download-too-large" Permanent "make it smaller, or have the hook fetch it";
    /// The hook script lacks a function.
    HookMissing "hook-missing" Config "define the function in the hook script";
    /// A hook function failed.
    HookFailed "hook-failed" Permanent "correct the cause, then: node-agent run --once";
    /// A hook function did not end in time.
    HookTimedOut "hook-timed-out" Permanent "find out what it waits for, or raise timeouts.hooks, then: node-agent run --once";
    /// The instance is being terminated.
    Terminating "terminating" LifecycleLost "nothing to do: the group replaces the instance";
    /// The instance waits in a warm pool.
    WarmPool "warm-pool" Waiting "nothing to do: the agent goes to work when the group launches the instance";
    /// This instance's launch was abandoned.
    LaunchAbandoned "launch-abandoned" LifecycleLost "nothing to do: the group terminates and replaces the instance";
    /// The launch was completed before, with another result.
    LaunchCompleted "launch-completed" LifecycleLost "nothing can be sent any more; to replace the instance, terminate it: aws autoscaling terminate-instance-in-auto-scaling-group --no-should-decrement-desired-capacity --instance-id INSTANCE";
    /// IAM does not let the result be reported to Auto Scaling.
    ReportRefused "report-refused" LifecycleWaiting "allow autoscaling:CompleteLifecycleAction on the group in the instance role's policy, then: node-agent retry";
    /// Auto Scaling does not wait for this lifecycle action.
    LifecycleNotWaiting "lifecycle-not-waiting" LifecycleWaiting "check lifecycle.asg_name and lifecycle.hook_name, and that the role allows autoscaling:CompleteLifecycleAction on the group";
}

/// One failure.
#[derive(Debug)]
pub struct Failure {
    /// Which one of the catalogue.
    pub code: Code,
    /// What happened and what was seen, naming the thing.
    pub message: String,
    remedy: Option<String>,
    source: Option<Box<dyn Error + Send + Sync>>,
    /// The last lines of a hook's output. They may hold secrets, so they stay on the machine.
    output: Option<Vec<String>>,
}

impl Failure {
    /// The catalogue's `code`, with what happened.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Failure { code, message: message.into(), remedy: None, source: None, output: None }
    }

    /// With a remedy that says more than the catalogue's.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// With the error underneath; [`fmt::Display`] prints its chain once.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// With the last lines of a hook's output.
    #[must_use]
    pub fn with_output(mut self, lines: Vec<String>) -> Self {
        self.output = Some(lines);
        self
    }

    /// What happened, without a hook's output: for places that others than root can read.
    pub fn in_public(&self) -> String {
        let source = self.source.as_deref().map(|source| source as &dyn Error);
        with_sources(self.message.clone(), source)
    }

    /// A local operation on `what` failed.
    pub fn io(what: impl fmt::Display, error: std::io::Error) -> Self {
        Failure::new(Code::LocalIo, what.to_string()).because(error)
    }

    /// What to do next.
    pub fn what_to_do(&self) -> &str {
        self.remedy.as_deref().unwrap_or_else(|| self.code.remedy())
    }

    /// How it is treated.
    pub fn class(&self) -> Class {
        self.code.class()
    }

    /// The same failure, now final because `after` has passed.
    #[must_use]
    pub fn given_up(mut self, after: &str) -> Self {
        self.message = format!("gave up after {after}: {}", self.message);
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.in_public())?;
        match self.output.as_deref() {
            None => Ok(()),
            Some([]) => f.write_str("; it printed nothing"),
            Some(lines) => write!(f, "; its last lines: {}", lines.join(" | ")),
        }
    }
}

/// `text` with what lies beneath it, each thing once: wrappers often repeat what they wrap.
pub fn with_sources(mut text: String, mut source: Option<&dyn Error>) -> String {
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = error.source();
    }
    text
}

impl Error for Failure {}

/// `io::Result` with the thing named.
pub trait Named<T> {
    /// Names what the operation was about: `reading /etc/fstab`.
    fn named(self, what: impl fmt::Display) -> Result<T, Failure>;
}

impl<T> Named<T> for std::io::Result<T> {
    fn named(self, what: impl fmt::Display) -> Result<T, Failure> {
        self.map_err(|error| Failure::io(what, error))
    }
}

impl<T> Named<T> for nix::Result<T> {
    fn named(self, what: impl fmt::Display) -> Result<T, Failure> {
        self.map_err(|errno| Failure::io(what, errno.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_own_name_and_a_remedy() {
        let mut names: Vec<_> = Code::ALL.iter().map(|code| code.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Code::ALL.len());
        assert!(Code::ALL.iter().all(|code| code.remedy().len() > 20 && code.meaning().ends_with('.')));
    }

    #[test]
    fn a_source_is_printed_once() {
        let inner = std::io::Error::other("No space left on device");
        let failure = Failure::new(Code::LocalIo, "writing /etc/fstab").because(inner);
        assert_eq!(failure.to_string(), "writing /etc/fstab: No space left on device");
        let repeated = Failure::new(Code::LocalIo, "it broke: disk gone").because(std::io::Error::other("disk gone"));
        assert_eq!(repeated.to_string(), "it broke: disk gone");
    }
}
