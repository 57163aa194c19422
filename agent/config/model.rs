//! The validated settings. Every value here has passed its checks; the raw text is gone.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::digest::Sha256Digest;
use super::mistake::Mistake;
use super::schema::{EXT4, XFS};

/// The whole configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The node's identity.
    pub node: Node,
    /// The Auto Scaling group and hook to report to; `None` where there is no Auto Scaling hook.
    pub lifecycle: Option<Lifecycle>,
    /// The other nodes; `None` where this one leaves without asking for them.
    pub cluster: Option<Cluster>,
    /// The data volumes, in the order of the text. No two share an id or a mount path.
    pub volumes: Vec<Volume>,
    /// The files to write, in the order of the text. No two share a destination.
    pub files: Vec<File>,
    /// The user's functions; always `Some` with `lifecycle`.
    pub hooks: Option<Hooks>,
    /// How long each kind of work may take.
    pub timeouts: Timeouts,
    /// Lower-case hex SHA-256 over the texts of both layers: tells whether the configuration changed.
    pub digest: String,
    /// The configuration's source, for whoever corrects it: a path, or the user data.
    pub origin: String,
    /// Settings that are valid but probably unintended.
    pub warnings: Vec<Mistake>,
}

impl Config {
    /// What the configuration holds, in a line.
    pub fn summary(&self) -> String {
        let some = |count: usize, one: &str| format!("{count} {one}{}", if count == 1 { "" } else { "s" });
        let parts = [
            Some(format!("node {} at {}", self.node.id, self.node.ip)),
            Some(some(self.volumes.len(), "volume")),
            Some(some(self.files.len(), "file")),
            self.hooks.as_ref().map(|_| "hooks".to_owned()),
            self.lifecycle.as_ref().map(|lifecycle| format!("group {}", lifecycle.asg_name)),
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

/// `[node]`: the node's fixed identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The hooks' first argument. Not empty, no control characters.
    pub id: String,
    /// The hooks' second argument; must be an address of this instance.
    pub ip: IpAddr,
}

/// `[lifecycle]`: the Auto Scaling launch hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lifecycle {
    /// The Auto Scaling group.
    pub asg_name: String,
    /// The launch lifecycle hook.
    pub hook_name: String,
    /// How to respond to a failure.
    pub on_failure: OnFailure,
    /// How long a failed node waits for a retry before ABANDON.
    pub hold_for: Duration,
    /// The hook's heartbeat timeout, used if IAM denies reading the hook.
    pub heartbeat_timeout: Option<Duration>,
    /// The termination lifecycle hook.
    pub terminate_hook_name: Option<String>,
}

/// `[cluster]`: the nodes of which one at a time may be away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// The nodes' Auto Scaling groups.
    pub groups: Groups,
    /// How long a leaving node waits, at most, while another one is away. Zero: not at all.
    pub gate: Duration,
}

/// How a cluster's Auto Scaling groups are found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Groups {
    /// By a tag of theirs.
    Tagged {
        /// Its key.
        key: String,
        /// Its value.
        value: String,
    },
    /// By name; not empty.
    Named(Vec<String>),
}

/// The response to a failed boot sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// Stay up and wait for an operator's retry.
    Hold,
    /// Send ABANDON at once.
    Abandon,
}

/// A `[[volume]]`: an EBS volume, its filesystem and where it is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// The EBS volume's id.
    pub id: VolumeId,
    /// The device name for attaching; on `NVMe` instances the device appears under another name.
    pub device_name: String,
    /// The mount point: absolute, normalised, not a system directory.
    pub mount_path: PathBuf,
    /// The filesystem to create, or to expect.
    pub file_system: FileSystemType,
    /// Options for fstab and mount(8), one each.
    pub mount_options: Vec<String>,
    /// The mount point's owner; `None` leaves it as it is.
    pub owner: Option<Account>,
    /// The mount point's group; `None` leaves it as it is.
    pub group: Option<Account>,
    /// When to set owner and group on everything below the mount point, too.
    pub recursive: Recursive,
    /// Whether the volume is detached before the instance terminates.
    pub detach_on_terminate: bool,
    /// Whether a blank volume may be formatted.
    pub format: Format,
    /// Whether a missing mkfs may be installed by the package manager.
    pub install_tools: bool,
}

/// An EBS volume id: `vol-` and 8 or 17 lower-case hex digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VolumeId(String);

impl VolumeId {
    /// The id as EC2 writes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The `NVMe` controller's serial number for this volume: the id without its dash.
    pub fn serial(&self) -> String {
        self.0.replacen('-', "", 1)
    }
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text is not an EBS volume id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a volume id (vol- and 8 or 17 lower-case hex digits)")]
pub struct BadVolumeId;

impl FromStr for VolumeId {
    type Err = BadVolumeId;

    fn from_str(text: &str) -> Result<Self, BadVolumeId> {
        let digits = text.strip_prefix("vol-").ok_or(BadVolumeId)?;
        // EC2 assigned 8 digits until its resource ids grew to 17 digits in 2018; old volumes keep their ids.
        let right = matches!(digits.len(), 8 | 17) && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if right { Ok(Self(text.to_owned())) } else { Err(BadVolumeId) }
    }
}

/// A filesystem that the agent can create and grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileSystemType {
    /// XFS.
    Xfs,
    /// ext4.
    Ext4,
}

impl FileSystemType {
    /// The name as mount(8), fstab and mkfs know it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Xfs => XFS,
            Self::Ext4 => EXT4,
        }
    }
}

impl fmt::Display for FileSystemType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// When owner and group are set on everything below a mount point, apart from after a format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recursive {
    /// Only after a format.
    AfterFormat,
    /// On every boot.
    Always,
    /// When the mount point itself has another owner or group.
    WhenOwnerDiffers,
}

/// Whether a blank volume is formatted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A volume that is proven blank is formatted.
    IfBlank,
    /// A blank volume is an error.
    Never,
}

/// A user or a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Account {
    /// By name; exists on this host when the scope was [`Scope::ThisHost`](super::Scope::ThisHost).
    Name(String),
    /// By number; need not exist. Never `u32::MAX`, which chown(2) reads as "leave unchanged".
    Id(u32),
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Id(id) => write!(f, "{id}"),
        }
    }
}

/// A `[[file]]` to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// The path: absolute and normalised.
    pub destination: PathBuf,
    /// The contents.
    pub contents: Contents,
    /// The expected digest of the contents; already checked for inline contents.
    pub sha256: Option<Sha256Digest>,
    /// The permission bits, at most `0o7777`.
    pub mode: u32,
    /// The owner.
    pub owner: Account,
    /// The group.
    pub group: Account,
}

/// A file's contents.
#[derive(Clone, PartialEq, Eq)]
pub enum Contents {
    /// From the configuration, decoded.
    Inline(Vec<u8>),
    /// To be fetched.
    Source(Source),
}

/// Without the contents, which may be secret: debug output ends up in logs.
impl fmt::Debug for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inline(bytes) => write!(f, "Inline({} bytes)", bytes.len()),
            Self::Source(source) => write!(f, "Source({source})"),
        }
    }
}

/// The source of contents or of a script.
#[derive(Clone, PartialEq, Eq)]
pub enum Source {
    /// `s3://bucket/key`.
    S3 {
        /// The bucket's name.
        bucket: String,
        /// The object's key, not empty, without the slash behind the bucket.
        key: String,
    },
    /// `https://…`, unchanged, including a presigned URL's secrets.
    Https(String),
    /// `file:///…`: an absolute path on this host.
    File(PathBuf),
}

/// The URL, for logs and errors: without user, password and the values of a query, which may be secrets.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::S3 { bucket, key } => write!(f, "s3://{bucket}/{key}"),
            Self::Https(url) => f.write_str(&without_secrets(url)),
            Self::File(path) => write!(f, "file://{}", path.display()),
        }
    }
}

/// As `Display`, for the same reason.
impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Source({self})")
    }
}

/// A URL without user, password, query and fragment.
pub(crate) fn without_secrets(url: &str) -> String {
    let (bare, query) = match url.find(['?', '#']) {
        Some(at) => (&url[..at], "?…"),
        None => (url, ""),
    };
    let (scheme, rest) = match bare.find("://") {
        Some(at) => bare.split_at(at + 3),
        None => ("", bare),
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit('@').next().unwrap_or(authority);
    format!("{scheme}{host}{path}{query}")
}

/// `[hooks]`: the user's script and its functions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hooks {
    /// The bash script that defines the functions.
    pub script: Script,
    /// The expected digest of the script; already checked if the script could be read.
    pub sha256: Option<Sha256Digest>,
    /// The function that configures the node.
    pub configure: String,
    /// The function that waits for a healthy cluster.
    pub health_check: String,
    /// The function that drains the node before termination; runs if the script defines it.
    pub drain: String,
}

/// The hooks' script.
#[derive(Clone, PartialEq, Eq)]
pub enum Script {
    /// A file on this host.
    Path(PathBuf),
    /// From the configuration, decoded.
    Inline(Vec<u8>),
    /// To be fetched.
    Remote {
        /// The script's source; never [`Source::File`].
        source: Source,
        /// The script to use if the source cannot be fetched or is empty, decoded. Its functions are not checked yet.
        fallback: Option<Vec<u8>>,
    },
}

/// Without the script's text, which may hold secrets: debug output ends up in logs.
impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "Path({})", path.display()),
            Self::Inline(bytes) => write!(f, "Inline({} bytes)", bytes.len()),
            Self::Remote { source, fallback } => {
                write!(f, "Remote({source}, fallback: {:?} bytes)", fallback.as_ref().map(Vec::len))
            }
        }
    }
}

/// `[timeouts]`: how long each kind of work may take. Each is longer than zero and at most a year.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// Until IMDS, credentials, DNS and the APIs are reachable.
    pub aws: Duration,
    /// Until the volume is free and attached, and its device appears.
    pub volume: Duration,
    /// Each hook call.
    pub hooks: Duration,
    /// Each file and script source.
    pub downloads: Duration,
    /// Completing the lifecycle action.
    pub complete: Duration,
    /// The drain function, on termination.
    pub drain: Duration,
    /// Unmounting, on termination.
    pub unmount: Duration,
}
