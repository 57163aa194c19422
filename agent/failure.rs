//! Failures as the person paged reads them: what happened, what was seen, what to do next.
//!
//! One catalogue, [`Code`], lists every kind of failure with its class and usual remedy. The class decides whether the runner
//! retries or gives up, and the exit code; no code reads messages.
//!
//! In one file, because most of it is that table.

use std::error::Error;
use std::fmt;
use std::path::PathBuf;

use crate::sequence::StepName;

/// How a failure is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The other side cannot be reached or is overloaded: retried for as long as an outage may last.
    Outage,
    /// The wanted state may still come about by itself: retried until the step's deadline.
    Waiting,
    /// Probably eventual consistency: retried for [`crate::runner::patience::SETTLING`] (credentials: as long as an outage), then final.
    Settling,
    /// A retry would fail the same way.
    Permanent,
    /// Continuing could lose data or take a volume from its present user.
    Safety,
    /// [`Class::Safety`] once the deadline has passed; until then the volume or device may become free by itself.
    SafetyWaiting,
    /// The configuration is wrong.
    Config,
    /// Another process holds the lock.
    Locked,
    /// The lifecycle action has timed out, or the instance is being terminated.
    LifecycleLost,
    /// [`Class::LifecycleLost`] once the deadline has passed; until then it may resolve by itself.
    LifecycleWaiting,
    /// A stop signal came before the end.
    Stopped,
    /// The command line is wrong.
    Usage,
}

impl Class {
    /// The process's exit code when a run ends with a failure of this class.
    pub fn exit_code(self) -> u8 {
        match self {
            Class::Outage | Class::Waiting | Class::Settling | Class::Permanent => 1,
            Class::Usage => 2,
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
            /// All codes, in the order of the boot sequence.
            pub const ALL: &[Code] = &[$(Code::$variant,)+];

            /// The stable name, as in JSON and metrics.
            pub fn name(self) -> &'static str {
                match self { $(Code::$variant => $name,)+ }
            }

            /// How a failure of this kind is treated.
            pub fn class(self) -> Class {
                match self { $(Code::$variant => Class::$class,)+ }
            }

            /// The remedy, unless the failure has a more specific one.
            pub fn remedy(self) -> &'static str {
                match self { $(Code::$variant => $remedy,)+ }
            }

            /// When it happens, from the variant's doc comment.
            pub fn meaning(self) -> &'static str {
                match self { $(Code::$variant => concat!($($doc,)+).trim_ascii(),)+ }
            }
        }
    };
}

catalogue! {
    /// The configuration has mistakes.
    ConfigInvalid "config-invalid" Config "correct the lines that the report names, then: node-agent retry";
    /// The configuration cannot be read.
    ConfigUnreadable "config-unreadable" Config "put the configuration there, or name it with --config PATH, then: node-agent retry";
    /// Another agent is running on this machine.
    Locked "locked" Locked "wait until that run ends, then: node-agent retry";
    /// The agent is working on another request.
    Busy "busy" Locked "wait until it ends: node-agent status --wait";
    /// The resident service ended in the middle of a request.
    ServiceGone "service-gone" Stopped "see what it did: node-agent status, and its log: journalctl -u node-agent";
    /// The resident service does not answer.
    ServiceHangs "service-hangs" Stopped "see what it does (systemctl status node-agent), or: systemctl restart node-agent";
    /// The resident service is running, but its control socket cannot be reached.
    ServiceUnreachable "service-unreachable" Stopped "free space in /run (df -h /run; df -i /run), then its socket comes back within 10 s; or: systemctl restart node-agent";
    /// The state directory cannot be used.
    StateUnusable "state-unusable" Permanent "make the directory writable and give it space (ls -ld, df -h), then: node-agent retry";
    /// A step has exceeded its time limit.
    OutOfTime "out-of-time" Permanent "find out what the step waits for, or raise its time in [timeouts], then: node-agent retry";
    /// A step has acted, but the effect cannot be observed.
    NoEffect "no-effect" Waiting "AWS may show an old state for minutes; if it lasts, check what the message names in the AWS console or on this machine, then: node-agent retry";
    /// The agent cannot be installed as requested.
    InstallImpossible "install-impossible" Permanent "see node-agent install --help";
    /// A plan ends at a step that must be done before the following steps can be planned.
    NotKnownYet "not-known-yet" Permanent "repeat the plan when that step is done";
    /// The agent received a stop signal.
    Stopped "stopped" Stopped "nothing was completed; to resume: node-agent retry";
    /// The instance metadata service does not answer.
    ImdsUnreachable "imds-unreachable" Outage "check that no route, firewall or proxy keeps this machine from 169.254.169.254; if the service is off: aws ec2 modify-instance-metadata-options --instance-id INSTANCE --http-endpoint enabled; then: node-agent retry";
    /// The instance metadata service answers, but refuses.
    ImdsRefused "imds-refused" Permanent "switch the service on: aws ec2 modify-instance-metadata-options --instance-id INSTANCE --http-endpoint enabled; then: node-agent retry";
    /// The instance metadata service lacks a value that every instance has.
    ImdsIncomplete "imds-incomplete" Waiting "this must be an EC2 instance, with nothing between it and 169.254.169.254; then: node-agent retry";
    /// The configured address does not belong to this instance.
    WrongNode "wrong-node" Safety "this instance must not take that node's data: attach the node's network interface (aws ec2 attach-network-interface), or correct node.ip, then: node-agent retry";
    /// An AWS service cannot be reached, or its answer cannot be read.
    ApiUnreachable "api-unreachable" Outage "try the address from this machine (curl -v), and check route, DNS, security group, network ACL and VPC endpoints, then: node-agent retry";
    /// An environment variable does not name a usable proxy.
    ProxyInvalid "proxy-invalid" Permanent "correct the variable where the service gets it (systemctl cat node-agent; Environment= or EnvironmentFile=): http://HOST:PORT or http://USER:PASSWORD@HOST:PORT, with all but letters and digits in PASSWORD as %XX; then: systemctl daemon-reload && systemctl restart node-agent";
    /// A proxy does not accept this machine's credentials.
    ProxyRefused "proxy-refused" Permanent "write the user name and password that the proxy accepts into the variable (http://USER:PASSWORD@HOST:PORT, with all but letters and digits as %XX) where the service gets it (systemctl cat node-agent), then: systemctl daemon-reload && systemctl restart node-agent";
    /// This machine does not trust a server's certificate, or the certificate is not valid now.
    CertificateUntrusted "certificate-untrusted" Outage "install the CA certificates (package ca-certificates), and that of your own proxy or endpoint, if there is one; check the clock (timedatectl); then: systemctl restart node-agent (a running agent keeps the certificates it has read)";
    /// An AWS service has an internal error, or too much to do.
    ApiOverloaded "api-overloaded" Outage "wait; if it lasts, look at https://health.aws.amazon.com, then: node-agent retry";
    /// The account's request quota is used up.
    ApiThrottled "api-throttled" Outage "wait; if it lasts, find what else in the account calls this action so often (CloudTrail), or ask AWS for a larger quota, then: node-agent retry";
    /// The instance's credentials are missing or not accepted.
    Credentials "credentials" Settling "check that the instance has its profile (aws ec2 describe-iam-instance-profile-associations), that the role trusts ec2.amazonaws.com, and that the clock is right (timedatectl), then: node-agent retry";
    /// IAM does not allow an action.
    AccessDenied "access-denied" Settling "allow the action in the instance role's policy, then: node-agent retry";
    /// An AWS service refuses a request for another reason, which its message names.
    ApiRefused "api-refused" Permanent "correct what the service's message says, then: node-agent retry";
    /// The volume does not exist.
    VolumeNotFound "volume-not-found" Settling "correct volume.id, or restore the volume from a snapshot; check: aws ec2 describe-volumes --volume-ids VOLUME; then: node-agent retry";
    /// The instance is not known to EC2.
    InstanceNotFound "instance-not-found" Settling "EC2 knows an instance within a minute: if it lasts, check that AWS_REGION is not set to another region, then: node-agent retry";
    /// The volume is in another availability zone.
    ZoneMismatch "zone-mismatch" Permanent "launch the node in the volume's zone only (the group's subnets), or copy the volume: aws ec2 create-snapshot, aws ec2 create-volume --snapshot-id SNAPSHOT --availability-zone ZONE, and set volume.id; then: node-agent retry";
    /// The volume cannot be used in its present state.
    VolumeUnusable "volume-unusable" Permanent "restore the volume (aws ec2 create-volume --snapshot-id SNAPSHOT --availability-zone ZONE) and set volume.id, then: node-agent retry";
    /// The volume has not reached the wanted state yet.
    VolumeInTransit "volume-in-transit" Waiting "check: aws ec2 describe-volumes --volume-ids VOLUME; once it is attached here or available: node-agent retry";
    /// The volume is attached to another instance.
    VolumeHeld "volume-held" SafetyWaiting "stop using the volume there, unmount and detach it, or terminate that instance, then: node-agent retry";
    /// The volume can be attached to several instances at once.
    MultiAttach "multi-attach" Safety "ext4 and XFS cannot be shared: aws ec2 modify-volume --volume-id VOLUME --no-multi-attach-enabled; then: node-agent retry";
    /// All device names are taken.
    NoDeviceName "no-device-name" Permanent "detach a volume that is not needed, or set volume.device_name to a free name, as \"/dev/xvdba\", then: node-agent retry";
    /// Too many volumes are attached to the instance.
    AttachmentLimit "attachment-limit" Permanent "detach a volume that is not needed (aws ec2 detach-volume --volume-id VOLUME), then: node-agent retry; or use a larger instance type";
    /// The volume's encryption keeps it from being attached.
    EncryptionRefused "encryption-refused" Permanent "check that the volume's key is enabled (aws kms describe-key --key-id KEY), and allow the instance's role to use it (kms:CreateGrant and the others in docs/operations.md under IAM), then: node-agent retry";
    /// The attached volume's device does not appear.
    DeviceMissing "device-missing" Waiting "see dmesg and lsblk -o NAME,SERIAL,SIZE; a reboot of the instance often makes the device appear; then: node-agent retry";
    /// A device's name and its serial or type contradict each other.
    DeviceUntrusted "device-untrusted" Safety "compare with lsblk -o NAME,SERIAL,SIZE; a stale link under /dev/disk/by-id goes away with: udevadm trigger && udevadm settle; then: node-agent retry";
    /// The device's size differs from the size that EC2 shows.
    DeviceSize "device-size" SafetyWaiting "compare aws ec2 describe-volumes --volume-ids VOLUME with lsblk -b: it must be the same volume; after a resize they agree within minutes, then: node-agent retry";
    /// Another process is using the device.
    DeviceBusy "device-busy" SafetyWaiting "find the process that has it open: fuser -v DEVICE; wait until it ends, never kill mkfs or e2fsck, then: node-agent retry";
    /// The device cannot be read.
    DeviceUnreadable "device-unreadable" Safety "an unreadable disk is not a blank one: see dmesg and aws ec2 describe-volume-status --volume-ids VOLUME, then: node-agent retry";
    /// The disk is neither proven blank nor a filesystem that can be used.
    NotBlank "not-blank" Safety "see what is on the disk and what uses it (lsblk -o +FSTYPE,RO DEVICE); only if it is not needed: wipefs -a DEVICE && blkdiscard -z DEVICE, then: node-agent retry";
    /// The disk is blank although it must not be.
    UnexpectedlyBlank "unexpectedly-blank" Safety "this may be data loss: check volume.id and the volume's history; only if the disk is meant to be empty, make the filesystem by hand (mkfs.xfs DEVICE or mkfs.ext4 DEVICE), then: node-agent retry";
    /// The disk has a filesystem of another type than configured.
    WrongFilesystem "wrong-filesystem" Safety "set volume.file_system to what is on the disk, or correct volume.id; the agent never converts or overwrites; then: node-agent retry";
    /// A node in service finds a different filesystem than before.
    AnotherFilesystem "another-filesystem" Safety "find out what created it (aws ec2 describe-volumes --volume-ids VOLUME; journalctl -b; the shell history): the node's data may be lost or on another volume; only if this is the filesystem to use: node-agent retry --from filesystem";
    /// A program the agent needs is missing.
    ToolMissing "tool-missing" Permanent "install the package that contains it, here and in the image, then: node-agent retry";
    /// A program the agent started failed.
    ToolFailed "tool-failed" Permanent "correct what the program's message says, then: node-agent retry";
    /// Another process holds the package manager's lock.
    InstallerBusy "installer-busy" Waiting "wait until the other installation ends (cloud-init, unattended upgrades: ps -ef), then: node-agent retry";
    /// The filesystem has a feature that this machine's e2fsck does not know.
    FilesystemTooNew "filesystem-too-new" Safety "nothing is damaged: install an e2fsprogs, here and in the image, as new as the one that made the filesystem, then: node-agent retry";
    /// The filesystem check found damage it does not repair by itself.
    FilesystemDamaged "filesystem-damaged" Safety "take a snapshot first: aws ec2 create-snapshot --volume-id VOLUME; repair by hand: e2fsck DEVICE; then: node-agent retry";
    /// The agent does not share the machine's mounts.
    PrivateMounts "private-mounts" Safety "let the service share the machine's mounts (systemctl show node-agent | grep -E '^(Private|Protect)'), then: systemctl restart node-agent";
    /// The mount point is occupied by something else.
    MountPointTaken "mount-point-taken" Safety "move it away, or set another mount_path, then: node-agent retry";
    /// /etc/fstab already has another tool's line for the mount point.
    FstabConflict "fstab-conflict" Safety "remove that line from /etc/fstab, or set another mount_path, then: node-agent retry";
    /// The kernel refuses the mount.
    MountFailed "mount-failed" Permanent "see the filesystem's own message in dmesg, then: node-agent retry";
    /// The mount lacks the configured options, and the kernel cannot change them while the filesystem is mounted.
    MountOptions "mount-options" Permanent "correct mount_options; or stop what uses the volume (fuser -vm PLACE), then: umount PLACE && node-agent retry; or reboot: the next boot mounts it as configured";
    /// A mounted filesystem takes no writes: the kernel made it read-only or shut it down after an error.
    ReadOnly "read-only" Permanent "see why in dmesg; take a snapshot first: aws ec2 create-snapshot --volume-id VOLUME; stop what uses it (fuser -vm PLACE), then: umount PLACE && node-agent retry, which checks the filesystem and mounts it again";
    /// A volume that the agent mounted is no longer mounted.
    NotMounted "not-mounted" Permanent "find out what unmounted it (journalctl -b); to mount it again: node-agent retry";
    /// A volume cannot be unmounted, because something holds it.
    MountBusy "mount-busy" Waiting "stop what holds it; the instance goes all the same, and the next mount replays the filesystem's log";
    /// Another node of the cluster is away, so this one must not leave yet.
    ClusterAway "cluster-away" Waiting "see what keeps the other node away (its tag node-agent:status; node-agent status there); this one leaves once that one is InService and healthy, and at the latest when cluster.gate is over";
    /// The target that starts the applications was stopped.
    TargetStopped "target-stopped" Permanent "find out what stopped it (journalctl -b -u node-agent-mounted.target); to start it and the applications again: systemctl start node-agent-mounted.target";
    /// A local file operation failed.
    LocalIo "local-io" Permanent "correct the error at the end of the message (df -h, df -i, ls -ld and dmesg show most causes), then: node-agent retry";
    /// A path leads through a symlink that a user other than root may have made.
    UnsafePath "unsafe-path" Safety "name the real folder in the configuration instead of the symlink, or give the folder that the message names to root (chown root:root FOLDER; chmod go-w FOLDER), then: node-agent retry";
    /// A user or group does not exist.
    UnknownAccount "unknown-account" Config "create the account, here and in the image (useradd, groupadd), or set its number, then: node-agent retry";
    /// A file or script cannot be fetched.
    DownloadFailed "download-failed" Permanent "check the source and its read permissions, then: node-agent retry";
    /// An S3 bucket is in another region than this instance, and cannot be read there.
    BucketElsewhere "bucket-elsewhere" Permanent "copy the object to a bucket of this instance's region (aws s3 cp SOURCE s3://BUCKET/KEY) and correct the source in the configuration; or, where an endpoint of your own is set (AWS_ENDPOINT_URL, AWS_ENDPOINT_URL_S3), unset it, as it serves one region alone; then: node-agent retry";
    /// An S3 bucket is in another region than this instance, and S3 does not answer there.
    BucketUnreachable "bucket-unreachable" Outage "give this subnet a way to S3 in the bucket's region (a gateway endpoint reaches its own region alone: NAT gateway, proxy), or copy the object to a bucket of this instance's region and correct the source in the configuration; then: node-agent retry";
    /// A web server redirects to an unencrypted address, in a loop, too often, or without an address.
    RedirectRefused "redirect-refused" Permanent "follow the address (curl -sSIL URL), and write the https:// address of the file itself as the source, then: node-agent retry";
    /// A file or script is not what its checksum says.
    ChecksumMismatch "checksum-mismatch" Permanent "restore the source, or correct the checksum in the configuration, then: node-agent retry";
    /// A file or script is larger than the limit.
    DownloadTooLarge "download-too-large" Permanent "make it smaller, or have the hook fetch it to the data volume, then: node-agent retry";
    /// The hook script is not a script that bash can run.
    HookUnusable "hook-unusable" Config "give a bash script, in UTF-8 and with Unix line endings, then: node-agent retry";
    /// The storage that a local file is on does not answer.
    StorageSilent "storage-silent" Permanent "see which storage the file is on (findmnt -T FILE) and whether it answers (timeout 5 stat FILE); bring the server back or copy the file to the root disk; then: node-agent retry";
    /// The hook script lacks a function.
    HookMissing "hook-missing" Config "define the function in the hook script, or correct its name in [hooks], then: node-agent retry";
    /// A hook function failed, or its script ended before the call.
    HookFailed "hook-failed" Permanent "correct what its last lines say, then: node-agent retry, which calls the function anew";
    /// A hook function did not end in time.
    HookTimedOut "hook-timed-out" Permanent "find out what the function waits for, or raise timeouts.hooks, then: node-agent retry";
    /// The instance is being terminated.
    Terminating "terminating" LifecycleLost "nothing to do: the group replaces the instance";
    /// The instance waits in a warm pool.
    WarmPool "warm-pool" Waiting "nothing to do: the agent starts its work when the group launches the instance";
    /// This instance's launch was abandoned.
    LaunchAbandoned "launch-abandoned" LifecycleLost "nothing to do: the group terminates and replaces the instance";
    /// The launch was completed before, with another result.
    LaunchCompleted "launch-completed" LifecycleLost "the result can no longer be changed; to replace the instance, terminate it: aws autoscaling terminate-instance-in-auto-scaling-group --no-should-decrement-desired-capacity --instance-id INSTANCE";
    /// The result cannot be reported to Auto Scaling: IAM, the service or this machine's disk prevents that.
    ReportRefused "report-refused" LifecycleWaiting "correct what the message says: allow autoscaling:CompleteLifecycleAction on the group in the instance role's policy, or correct lifecycle.asg_name and hook_name, then: node-agent retry";
    /// There is no lifecycle action to complete.
    NothingToComplete "nothing-to-complete" Permanent "repair the node, then: node-agent retry; or replace it: aws ec2 terminate-instances --instance-ids INSTANCE";
    /// Auto Scaling does not wait for this lifecycle action.
    LifecycleNotWaiting "lifecycle-not-waiting" LifecycleWaiting "list the hooks: aws autoscaling describe-lifecycle-hooks --auto-scaling-group-name GROUP; correct lifecycle.asg_name or hook_name, or allow autoscaling:CompleteLifecycleAction, then: node-agent retry";
    /// The command line of a rolling update names something that does not exist.
    RollUsage "roll-usage" Usage "correct the option; see node-agent roll --help";
    /// A rolling update must not begin or go on: a rule does not hold.
    RollRefused "roll-refused" Safety "correct what the message names, then roll again";
    /// A rolling update has stopped: a node does not come back, or something has changed meanwhile.
    RollStopped "roll-stopped" Permanent "repair what the message names, then roll again: the roll goes on where it stopped";
    /// Another rolling update of the same cluster is at work.
    AnotherRoll "another-roll" Locked "wait until it ends (node-agent roll status shows it), then roll again";
}

/// One failure.
#[derive(Debug)]
pub struct Failure {
    /// The catalogue entry.
    pub code: Code,
    /// What happened and what was seen, naming the thing.
    pub message: String,
    remedy: Option<String>,
    source: Option<Box<dyn Error + Send + Sync>>,
    /// The last lines of a hook's output and the file with all of them. They may hold secrets, so they stay on the machine.
    output: Option<(Vec<String>, PathBuf)>,
}

impl Failure {
    /// A failure of kind `code`; `message` says what happened and what was seen.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Failure { code, message: message.into(), remedy: None, source: None, output: None }
    }

    /// Replaces the catalogue's remedy by a more specific one.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// Adds the underlying error; [`fmt::Display`] prints its chain once.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Adds the last lines of a hook's output, which is in the file `all` as a whole.
    #[must_use]
    pub fn with_output(mut self, last: Vec<String>, all: PathBuf) -> Self {
        self.output = Some((last, all));
        self
    }

    /// The message without a hook's output, for places that users other than root can read.
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

    /// The same failure for one who cannot retry a node.
    #[must_use]
    pub fn without_retry(mut self) -> Self {
        self.remedy = Some(without_retry(self.what_to_do()).to_owned());
        self
    }

    /// How the failure is treated.
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
        match &self.output {
            None => Ok(()),
            Some((last, _)) if last.is_empty() => f.write_str("; it printed nothing"),
            Some((last, all)) => {
                write!(f, "; its last lines: {} (all of its output: {})", last.join(" | "), all.display())
            }
        }
    }
}

/// `text` and its chain of sources, each printed once: wrappers often repeat what they wrap.
pub fn with_sources(mut text: String, mut source: Option<&dyn Error>) -> String {
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text.extend([": ", &more]);
        }
        source = error.source();
    }
    text
}

impl Error for Failure {}

/// The remedy where no node takes a retry: it leaves, or this is another machine.
pub fn without_retry(remedy: &str) -> &str {
    let before = remedy.split("then: node-agent retry").next().unwrap_or(remedy);
    before.trim_end_matches([' ', ',', ';'])
}

/// Gives an I/O error the name of the operation that failed.
pub trait Named<T> {
    /// Names the operation: `reading /etc/fstab`.
    fn named(self, what: impl fmt::Display) -> Result<T, Failure>;
}

impl<T, E: Into<std::io::Error>> Named<T> for Result<T, E> {
    fn named(self, what: impl fmt::Display) -> Result<T, Failure> {
        self.map_err(|error| Failure::io(what, error.into()))
    }
}

/// A failure and the step that it happened in.
#[derive(Debug)]
pub struct FailedStep {
    /// None for a failure outside of any step.
    pub step: Option<StepName>,
    pub(crate) failure: Failure,
}

/// The step's name for messages; `start` outside of any step.
pub fn place(step: Option<StepName>) -> &'static str {
    step.map_or("start", StepName::as_str)
}

impl FailedStep {
    /// A failure in `step`.
    pub fn at(step: StepName, failure: Failure) -> Self {
        FailedStep { step: Some(step), failure }
    }

    /// Whether a stop signal ended the step.
    pub fn was_stopped(&self) -> bool {
        self.failure.class() == Class::Stopped
    }
}

impl fmt::Display for FailedStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.step {
            Some(step) => write!(f, "{step}: {}", self.failure),
            None => self.failure.fmt(f),
        }
    }
}

impl From<Failure> for FailedStep {
    fn from(failure: Failure) -> Self {
        FailedStep { step: None, failure }
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
    fn a_node_that_leaves_is_not_told_to_retry() {
        let cases = [
            ("correct volume.id, then: node-agent retry", "correct volume.id"),
            ("see dmesg; then: node-agent retry, which calls the function anew", "see dmesg"),
            ("wait", "wait"),
        ];
        for (remedy, rest) in cases {
            assert_eq!(without_retry(remedy), rest);
        }
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
