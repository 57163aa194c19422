//! Declares every table and key once, with defaults and examples: for the reader, the JSON Schema and the tables in
//! docs/configuration.md.

use std::time::Duration;

/// The names of the filesystems, as mount(8), fstab, mkfs and libblkid know them.
pub const XFS: &str = "xfs";
/// See [`XFS`].
pub const EXT4: &str = "ext4";

/// A table of the configuration.
pub struct Table {
    /// The name; empty for the top level.
    pub name: &'static str,
    /// How often the table may be written.
    pub shape: Shape,
    doc: &'static str,
    /// The keys, in the order for writing them.
    pub keys: &'static [&'static Key],
    /// Keys exactly one of which is required; empty without such a choice.
    pub one_of: &'static [&'static str],
    /// Two keys of `one_of` that may be combined after all.
    pub pair: Option<[&'static str; 2]>,
}

/// How often a table may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// The top level itself.
    Root,
    /// Always, once: `[node]`.
    Required,
    /// At most once: `[lifecycle]`.
    Optional,
    /// Any number of times: `[[volume]]`.
    Each {
        /// The key that identifies an entry, also in the override.
        by: &'static str,
    },
}

/// A key of a table.
pub struct Key {
    /// The name of its table.
    pub table: &'static str,
    /// The name.
    pub name: &'static str,
    /// The kind of its value.
    pub kind: Kind,
    /// Whether the key is required.
    pub presence: Presence,
    /// The step that uses the key.
    pub step: &'static str,
    /// A valid value, as written in TOML.
    pub example: &'static str,
    doc: &'static str,
}

/// The kind of a value. All but [`Kind::Flag`], [`Kind::FlagOr`], the lists and [`Kind::Account`] are written as a string.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A plain text, not empty, without control characters.
    Text,
    /// An EBS volume's id.
    VolumeId,
    /// A device name of EC2: `/dev/sdf`.
    DeviceName,
    /// A bash function's name.
    Function,
    /// A text that may hold a secret: never shown in an error.
    Secret,
    /// A time span in humantime's syntax.
    Duration,
    /// `true` or `false`.
    Flag,
    /// `true`, `false` or one of these words.
    FlagOr(&'static [&'static str]),
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A list of words: strings without white space, commas, quotes and backslashes.
    List,
    /// A list of plain texts, not empty.
    Names,
    /// A tag of AWS: `KEY=VALUE`.
    Tag,
    /// A user's or group's name, or its number.
    Account,
    /// Permission bits in octal digits.
    Mode,
    /// A SHA-256 digest in hex.
    Sha256,
    /// An absolute path.
    Path,
    /// An IPv4 or IPv6 address.
    Ip,
    /// A URL.
    Url,
}

/// Whether a key is required.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Required.
    Required,
    /// Optional, without a default.
    Optional,
    /// Optional, with this default.
    Default(Literal),
}

/// A default's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Literal {
    /// A string.
    Text(&'static str),
    /// A boolean.
    Flag(bool),
    /// The empty list.
    EmptyList,
}

impl Key {
    /// The key's description, in a line or two.
    pub fn doc(&self) -> &'static str {
        self.doc.trim_start()
    }

    /// The default text, where the configuration cannot be read.
    pub fn default_text(&self) -> &'static str {
        match self.presence {
            Presence::Default(Literal::Text(text)) => text,
            _ => "",
        }
    }

    /// The default duration, also used where the configuration cannot be read.
    pub fn default_span(&self) -> Duration {
        humantime::parse_duration(self.default_text()).unwrap_or_default()
    }
}

impl Table {
    /// The table's description.
    pub fn doc(&self) -> &'static str {
        self.doc.trim_start()
    }

    /// The key of this name.
    pub fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().copied().find(|key| key.name == name)
    }

    /// The table's header as written in TOML; empty for the top level.
    pub fn header(&self) -> String {
        match self.shape {
            Shape::Root => String::new(),
            Shape::Required | Shape::Optional => format!("[{}]", self.name),
            Shape::Each { .. } => format!("[[{}]]", self.name),
        }
    }

    /// Whether `a` and `b` exclude each other.
    pub fn exclusive(&self, a: &str, b: &str) -> bool {
        let pair = self.pair.is_some_and(|pair| pair == [a, b] || pair == [b, a]);
        a != b && !pair && self.one_of.contains(&a) && self.one_of.contains(&b)
    }
}

/// The table of this name below the top level.
pub fn table(name: &str) -> Option<&'static Table> {
    TABLES.iter().copied().find(|table| table.name == name)
}

/// Declares a table as a module: a static for each key, and `TABLE`, which lists all of them.
macro_rules! table {
    (
        $(#[doc = $doc:literal])+
        $module:ident $name:literal $shape:expr, one_of $one_of:expr, pair $pair:expr;
        $($(#[doc = $key_doc:literal])+ $key:ident $key_name:literal $kind:expr, $presence:expr, $step:literal, $example:literal;)+
    ) => {
        $(#[doc = $doc])+
        pub mod $module {
            #[allow(unused_imports, clippy::enum_glob_use, reason = "a declaration reads as a table; not each has all")]
            use super::{EXT4, Key, Kind::*, Literal as L, Presence::*, Shape, Table, XFS};

            $(
                $(#[doc = $key_doc])+
                pub static $key: Key = Key {
                    table: $name,
                    name: $key_name,
                    kind: $kind,
                    presence: $presence,
                    step: $step,
                    example: $example,
                    doc: concat!($($key_doc),+),
                };
            )+

            /// The table itself.
            pub static TABLE: Table = Table {
                name: $name,
                shape: $shape,
                doc: concat!($($doc),+),
                keys: &[$(&$key),+],
                one_of: $one_of,
                pair: $pair,
            };
        }
    };
}

/// The tables below the top level.
pub static TABLES: [&Table; 7] =
    [&node::TABLE, &lifecycle::TABLE, &cluster::TABLE, &volume::TABLE, &file::TABLE, &hooks::TABLE, &timeouts::TABLE];

table! {
    /// The top level.
    root "" Shape::Root, one_of &[], pair None;
    /// Says that the instance's user data holds the settings; then nothing else stands in the file.
    SOURCE "source" Choice(&["imds"]), Optional, "all", "\"imds\"";
}

table! {
    /// Who this node is.
    node "node" Shape::Required, one_of &[], pair None;
    /// The node's id, the hooks' first argument.
    ID "id" Text, Required, "configure, health-check", "\"00\"";
    /// The node's fixed address, the hooks' second argument; must be an address of this instance.
    IP "ip" Ip, Required, "identity", "\"10.0.1.10\"";
}

table! {
    /// The Auto Scaling lifecycle hook to complete; left out where there is none.
    lifecycle "lifecycle" Shape::Optional, one_of &[], pair None;
    /// The Auto Scaling group's name.
    ASG_NAME "asg_name" Text, Required, "complete", "\"kafka-node-00\"";
    /// The launch lifecycle hook's name.
    HOOK_NAME "hook_name" Text, Required, "complete", "\"kafka-node-asg-hook\"";
    /// What a failure does: wait for a retry, or give the instance up at once.
    ON_FAILURE "on_failure" Choice(&["hold", "abandon"]), Default(L::Text("hold")), "all", "\"hold\"";
    /// How long a failed node waits for a retry before ABANDON.
    HOLD_FOR "hold_for" Duration, Default(L::Text("1h")), "all", "\"1h\"";
    /// The hook's heartbeat timeout, only where IAM does not let the hook be read.
    HEARTBEAT_TIMEOUT "heartbeat_timeout" Duration, Optional, "all", "\"15m\"";
    /// The termination lifecycle hook's name.
    TERMINATE_HOOK_NAME "terminate_hook_name" Text, Optional, "leave", "\"kafka-node-terminate-hook\"";
}

table! {
    /// The other nodes of the cluster: this one does not leave while one of them is away.
    cluster "cluster" Shape::Optional, one_of &["tag", "asg_names"], pair None;
    /// The tag of the cluster's Auto Scaling groups: a new node changes no other node's configuration.
    TAG "tag" Tag, Optional, "gate", "\"stateful-cluster=kafka\"";
    /// The cluster's Auto Scaling groups by name.
    ASG_NAMES "asg_names" Names, Optional, "gate", "[\"kafka-node-00\", \"kafka-node-01\"]";
    /// How long a leaving node waits while another one is away; `0s`: not at all.
    GATE "gate" Duration, Default(L::Text("2h")), "gate", "\"2h\"";
}

table! {
    /// An EBS volume, its filesystem and where it is mounted.
    volume "volume" Shape::Each { by: "id" }, one_of &[], pair None;
    /// The volume's id.
    ID "id" VolumeId, Required, "attach", "\"vol-0123456789abcdef0\"";
    /// The device name to attach it under; the next free one is taken when it is in use.
    DEVICE_NAME "device_name" DeviceName, Default(L::Text("/dev/sdf")), "attach", "\"/dev/sdf\"";
    /// Where it is mounted.
    MOUNT_PATH "mount_path" Path, Required, "mount", "\"/mydata\"";
    /// The filesystem to make; an existing one of the other type is refused.
    FILE_SYSTEM "file_system" Choice(&[XFS, EXT4]), Required, "filesystem", "\"xfs\"";
    /// Mount options, one an entry.
    MOUNT_OPTIONS "mount_options" List, Default(L::EmptyList), "mount", "[\"noatime\"]";
    /// The mount point's owner. A name is looked up in `/etc/passwd`, then by `getent` (LDAP, SSSD).
    OWNER "owner" Account, Optional, "ownership", "\"kafka\"";
    /// The mount point's group, looked up alike.
    GROUP "group" Account, Optional, "ownership", "\"kafka\"";
    /// Whether owner and group are set on everything below the mount point on every boot, or whenever the mount point's own differ.
    RECURSIVE "recursive" FlagOr(&["when-owner-differs"]), Default(L::Flag(false)), "ownership", "false";
    /// Whether the volume is detached before the instance terminates.
    DETACH_ON_TERMINATE "detach_on_terminate" Flag, Default(L::Flag(false)), "detach", "false";
    /// Whether a volume that is proven blank is formatted, or is an error.
    FORMAT "format" Choice(&["if-blank", "never"]), Default(L::Text("if-blank")), "filesystem", "\"if-blank\"";
    /// Whether xfsprogs or e2fsprogs is installed by dnf, yum or apt-get when mkfs is missing.
    INSTALL_TOOLS "install_tools" Flag, Default(L::Flag(false)), "filesystem", "false";
}

table! {
    /// A file to write.
    file "file" Shape::Each { by: "destination" }, one_of &["contents", "contents_base64", "source"], pair None;
    /// Where it goes.
    DESTINATION "destination" Path, Required, "files", "\"/etc/kafka/server.properties\"";
    /// What is in it, as text.
    CONTENTS "contents" Secret, Optional, "files", "\"…\"";
    /// What is in it, in base64.
    CONTENTS_BASE64 "contents_base64" Secret, Optional, "files", "\"…\"";
    /// Where its contents are fetched from: s3://, https:// or file://.
    SOURCE "source" Url, Optional, "files", "\"s3://bucket/key\"";
    /// What the contents must hash to, checked before anything is written.
    SHA256 "sha256" Sha256, Optional, "files", "\"<64 hex digits>\"";
    /// Its permission bits.
    MODE "mode" Mode, Default(L::Text("0644")), "files", "\"0644\"";
    /// Its owner.
    OWNER "owner" Account, Default(L::Text("root")), "files", "\"root\"";
    /// Its group.
    GROUP "group" Account, Default(L::Text("root")), "files", "\"root\"";
}

table! {
    /// The user's bash script and its functions; required with `[lifecycle]`.
    hooks "hooks" Shape::Optional, one_of &["script", "script_source", "script_base64"],
        pair Some(["script_source", "script_base64"]);
    /// The script on this host.
    SCRIPT "script" Path, Optional, "configure", "\"/usr/local/lib/node/hooks.sh\"";
    /// Where the script is fetched from: s3:// or https://. Falls back to `script_base64`.
    SCRIPT_SOURCE "script_source" Url, Optional, "configure", "\"s3://bucket/key\"";
    /// The script in base64.
    SCRIPT_BASE64 "script_base64" Secret, Optional, "configure", "\"…\"";
    /// What the script must hash to.
    SCRIPT_SHA256 "script_sha256" Sha256, Optional, "configure", "\"<64 hex digits>\"";
    /// The function that configures the node.
    CONFIGURE "configure" Function, Default(L::Text("configure_cluster_node")), "configure", "\"configure_cluster_node\"";
    /// The function that waits for a healthy cluster.
    HEALTH_CHECK "health_check" Function, Default(L::Text("wait_for_healthy_cluster")), "health-check",
        "\"wait_for_healthy_cluster\"";
    /// The function that drains the node before termination, run where the script defines it.
    DRAIN "drain" Function, Default(L::Text("drain_cluster_node")), "drain", "\"drain_cluster_node\"";
}

table! {
    /// How long each kind of work may take.
    timeouts "timeouts" Shape::Optional, one_of &[], pair None;
    /// IMDS, credentials, DNS and API becoming reachable.
    AWS "aws" Duration, Default(L::Text("5m")), "identity", "\"5m\"";
    /// The volume coming free, attaching, its device appearing.
    VOLUME "volume" Duration, Default(L::Text("30m")), "attach, filesystem", "\"30m\"";
    /// Each hook call.
    HOOKS "hooks" Duration, Default(L::Text("30m")), "configure, health-check", "\"30m\"";
    /// Each file and script source.
    DOWNLOADS "downloads" Duration, Default(L::Text("5m")), "files", "\"5m\"";
    /// Telling Auto Scaling.
    COMPLETE "complete" Duration, Default(L::Text("1h")), "complete", "\"1h\"";
    /// The drain function, on termination.
    DRAIN "drain" Duration, Default(L::Text("10m")), "drain", "\"10m\"";
    /// Unmounting, on termination.
    UNMOUNT "unmount" Duration, Default(L::Text("1m")), "unmount", "\"1m\"";
}
