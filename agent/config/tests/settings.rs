//! Valid input, and the settings it yields.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::config::schema::{self, Kind, Presence};
use crate::config::{
    Account, Contents, FileSystemType, Format, Groups, OnFailure, Recursive, Script, Sha256Digest, Source, VolumeId,
    wants_user_data,
};
use crate::host::this_host::ThisHost;

/// Every key, as the documentation shows them.
pub(super) const EVERYTHING: &str = r#"
[node]
id = "00"                                # the hooks' first argument
ip = "10.0.1.10"                         # the hooks' second; must be an address of this instance

[lifecycle]                              # leave the table out where there is no Auto Scaling hook
asg_name  = "kafka-node-00"
hook_name = "kafka-node-asg-hook"
on_failure = "hold"                      # hold (default) | abandon
hold_for   = "1h"
heartbeat_timeout = "15m"
terminate_hook_name = "kafka-node-terminate-hook"

[cluster]
tag = "stateful-cluster=kafka"           # or asg_names = ["kafka-node-00", "kafka-node-01"]
gate = "0s"

[[volume]]
id = "vol-0123456789abcdef0"
device_name = "/dev/sdf"
mount_path = "/mydata/"
file_system = "xfs"
mount_options = ["noatime"]
owner = "kafka"
group = 1001
recursive = false
detach_on_terminate = false
format = "if-blank"
install_tools = false

[[volume]]
id = "vol-01234567"
mount_path = "/var/lib/kafka"
file_system = "ext4"
owner = "1000"
format = "never"
recursive = true

[[file]]
destination = "/etc/kafka/server.properties"
contents_base64 = """
aGVsbG8K
"""
sha256 = "5891B5B522D5DF086D0FF0B110FBD9D21BB4FC7163AF34D08286A2E846F6BE03"
mode = "0640"
owner = "root"
group = "root"

[[file]]
destination = "/etc/kafka/broker.id"
contents = "0\n"

[[file]]
destination = "/etc/kafka/keystore"
source = "s3://my-bucket/path/to/key store"

[[file]]
destination = "/etc/kafka/ca.pem"
source = "https://user:pw@example.org/ca.pem?sig=1"

[[file]]
destination = "/etc/kafka/copy"
source = "file:///etc/hostname"

[hooks]
script_source = "s3://my-bucket/hooks.sh"
script_base64 = "ZWNobyBoaQo="
script_sha256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
configure = "configure_cluster_node"
health_check = "wait_for_healthy_cluster"
drain = "drain_cluster_node"

[timeouts]
aws = "5m"
volume = "30m"
hooks = "1h 30m"
downloads = "5m"
complete = "1h"
drain = "10m"
unmount = "500ms"
"#;

const MINUTE: Duration = Duration::from_mins(1);

#[test]
fn every_key_is_read() {
    let config = offline(EVERYTHING).unwrap();
    assert_eq!(config.node.id, "00");
    assert_eq!(config.node.ip, IpAddr::from([10, 0, 1, 10]));

    let lifecycle = config.lifecycle.unwrap();
    assert_eq!(lifecycle.asg_name, "kafka-node-00");
    assert_eq!(lifecycle.on_failure, OnFailure::Hold);
    assert_eq!(lifecycle.heartbeat_timeout, Some(15 * MINUTE));
    assert_eq!(lifecycle.terminate_hook_name.as_deref(), Some("kafka-node-terminate-hook"));

    let cluster = config.cluster.unwrap();
    assert_eq!(cluster.groups, Groups::Tagged { key: "stateful-cluster".into(), value: "kafka".into() });
    assert_eq!(cluster.gate, Duration::ZERO);

    let [first, second] = config.volumes.as_slice() else { panic!("{:?}", config.volumes) };
    assert_eq!((first.id.as_str(), first.id.serial().as_str()), ("vol-0123456789abcdef0", "vol0123456789abcdef0"));
    assert_eq!(first.mount_path, PathBuf::from("/mydata"));
    assert_eq!(first.mount_path.as_os_str(), "/mydata");
    assert_eq!(first.mount_options, ["noatime"]);
    assert_eq!((&first.owner, &first.group), (&Some(Account::Name("kafka".into())), &Some(Account::Id(1001))));
    assert_eq!((first.file_system, first.format), (FileSystemType::Xfs, Format::IfBlank));
    assert_eq!((second.file_system, second.format), (FileSystemType::Ext4, Format::Never));
    assert_eq!((&second.owner, &second.group), (&Some(Account::Id(1000)), &None));
    assert_eq!((second.device_name.as_str(), second.recursive), ("/dev/sdf", Recursive::Always));

    let contents: Vec<&Contents> = config.files.iter().map(|file| &file.contents).collect();
    let source = |source| Contents::Source(source);
    assert_eq!(
        contents,
        [
            &Contents::Inline(b"hello\n".to_vec()),
            &Contents::Inline(b"0\n".to_vec()),
            &source(Source::S3 { bucket: "my-bucket".into(), key: "path/to/key store".into() }),
            &source(Source::Https("https://user:pw@example.org/ca.pem?sig=1".into())),
            &source(Source::File("/etc/hostname".into())),
        ]
    );
    assert_eq!((config.files[0].mode, config.files[1].mode), (0o640, 0o644));
    assert_eq!(config.files[0].sha256, Some(Sha256Digest::of(b"hello\n")));
    assert_eq!(config.files[1].owner, Account::Name("root".into()));

    let hooks = config.hooks.unwrap();
    let source = Source::S3 { bucket: "my-bucket".into(), key: "hooks.sh".into() };
    assert_eq!(hooks.script, Script::Remote { source, fallback: Some(b"echo hi\n".to_vec()) });
    assert_eq!((config.timeouts.hooks, config.timeouts.unmount), (90 * MINUTE, Duration::from_millis(500)));
}

#[test]
fn omitted_keys_have_their_defaults() {
    let config = offline(NODE).unwrap();
    assert!(config.lifecycle.is_none() && config.hooks.is_none());
    assert!(config.volumes.is_empty() && config.files.is_empty());
    let timeouts = config.timeouts;
    assert_eq!((timeouts.aws, timeouts.volume, timeouts.hooks), (5 * MINUTE, 30 * MINUTE, 30 * MINUTE));
    assert_eq!((timeouts.downloads, timeouts.complete, timeouts.unmount), (5 * MINUTE, 60 * MINUTE, MINUTE));

    let toml = "[lifecycle]\nasg_name = \"a\"\nhook_name = \"b\"\n[hooks]\nscript = \"/h.sh\"\n";
    let config = offline(&format!("{NODE}{toml}")).unwrap();
    let (lifecycle, hooks) = (config.lifecycle.unwrap(), config.hooks.unwrap());
    assert_eq!((lifecycle.on_failure, lifecycle.hold_for), (OnFailure::Hold, 60 * MINUTE));
    assert_eq!((lifecycle.heartbeat_timeout, lifecycle.terminate_hook_name), (None, None));
    assert_eq!(hooks.script, Script::Path("/h.sh".into()));
    assert_eq!((hooks.configure.as_str(), hooks.drain.as_str()), ("configure_cluster_node", "drain_cluster_node"));
    assert_eq!(hooks.health_check, "wait_for_healthy_cluster");
}

#[test]
fn dotted_and_inline_toml_is_read() {
    let dotted = "node.id = \"00\"\nnode.ip = \"fd00::1\"\n";
    assert_eq!(offline(dotted).unwrap().node.ip.to_string(), "fd00::1");
    let inline = "node = { id = '00', ip = '10.0.1.10' }\nvolume = [{ id = 'vol-01234567', mount_path = '/d', file_system = 'xfs' }]\n";
    assert_eq!(offline(inline).unwrap().volumes.len(), 1);
    assert!(offline(&format!("\u{feff}{}", NODE.replace('\n', "\r\n"))).is_ok());
}

#[test]
fn mount_paths_outside_of_system_directories_are_valid() {
    for path in "/data,/var/lib/kafka,/home/kafka,/opt,/srv/x,/mnt,/tmp/x,/usr/local/kafka,/etcd,/my data".split(',') {
        let toml = format!("{NODE}[[volume]]\nid = \"vol-01234567\"\nmount_path = \"{path}\"\nfile_system = \"xfs\"\n");
        assert!(offline(&toml).is_ok(), "{:?}", offline(&toml));
    }
}

#[test]
fn the_override_wins_key_by_key() {
    let over = r#"
[node]
id = "01"

[[volume]]
id = "vol-01234567"
mount_options = ["ro"]

[[volume]]
id = "vol-89abcdef"
mount_path = "/more"
file_system = "xfs"

[[file]]
destination = "/etc/kafka/keystore"
contents = "repaired"

[[file]]
destination = "/etc/new"
contents = ""

[hooks]
script = "/root/hooks.sh"

[timeouts]
aws = "1s"
"#;
    let (plain, config) = (offline(EVERYTHING).unwrap(), layered(EVERYTHING, over).unwrap());
    assert_eq!((config.node.id.as_str(), config.node.ip), ("01", plain.node.ip));
    assert_eq!(config.lifecycle, plain.lifecycle);
    let paths: Vec<_> = config.volumes.iter().map(|volume| volume.mount_path.to_str().unwrap()).collect();
    assert_eq!(paths, ["/mydata", "/var/lib/kafka", "/more"]);
    assert_eq!(config.volumes[0], plain.volumes[0]);
    assert_eq!(config.volumes[1].mount_options, ["ro"]);
    assert_eq!(config.volumes[1].file_system, FileSystemType::Ext4);
    assert_eq!(config.files.len(), plain.files.len() + 1);
    // The contents displace the source, which they exclude.
    assert_eq!(config.files[2].contents, Contents::Inline(b"repaired".to_vec()));
    assert_eq!(config.files[5].destination, PathBuf::from("/etc/new"));
    assert_eq!(config.hooks.unwrap().script, Script::Path("/root/hooks.sh".into()));
    assert_eq!((config.timeouts.aws, config.timeouts.volume), (Duration::from_secs(1), plain.timeouts.volume));
}

#[test]
fn a_fallback_stays_below_an_overridden_source() {
    let config = layered(EVERYTHING, "[hooks]\nscript_source = \"https://h/x.sh\"\n").unwrap();
    let Script::Remote { source, fallback } = config.hooks.unwrap().script else { panic!("not remote") };
    assert_eq!((source, fallback), (Source::Https("https://h/x.sh".into()), Some(b"echo hi\n".to_vec())));
}

#[test]
fn the_override_can_complete_and_repair() {
    let config = layered("[node]\nid = \"00\"\n", "[node]\nip = \"10.0.1.10\"\n").unwrap();
    assert_eq!(config.node.id, "00");
    assert!(layered("[node]\nid = 5\nip = \"10.0.1.10\"\n", "[node]\nid = \"5\"\n").is_ok());
    assert!(layered(NODE, "").is_ok());
}

#[test]
fn the_digest_tells_texts_and_layers_apart() {
    let of = |config: Result<Config, Mistakes>| config.unwrap().digest;
    let plain = of(offline(NODE));
    assert!(plain.len() == 64 && plain.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')), "{plain}");
    assert_eq!(plain, of(offline(NODE)));
    assert_ne!(plain, of(offline(&format!("{NODE}# x\n"))));
    assert_ne!(plain, of(layered(NODE, "")));
    assert_ne!(of(layered(NODE, "# x\n")), of(layered(&format!("{NODE}# x\n"), "")));
}

#[test]
fn only_a_lone_source_wants_the_user_data() {
    assert!(wants_user_data("# here\nsource = \"imds\"\n"));
    for text in ["", "source = \"s3\"", "source = 5", "source = \"imds\"\n[node]\n", "source = \"imds\" x", NODE] {
        assert!(!wants_user_data(text), "{text}");
    }
}

#[test]
fn accounts_and_scripts_of_this_host_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("hooks.sh");
    std::fs::write(&script, "function a { :; }\nb() { :; }\n").unwrap();
    let digest = Sha256Digest::of(&std::fs::read(&script).unwrap());
    let toml = format!(
        "{NODE}[hooks]\nscript = {:?}\nconfigure = \"a\"\nhealth_check = \"b\"\nscript_sha256 = \"{digest}\"\n\
         [[file]]\ndestination = \"/x\"\ncontents = \"\"\nowner = \"root\"\ngroup = 4242\n",
        script.to_str().unwrap()
    );
    let config = load(text("config.toml", &toml), None, Scope::ThisHost(&ThisHost)).unwrap();
    assert_eq!(config.files[0].group, Account::Id(4242));
    assert_eq!(config.hooks.unwrap().sha256, Some(digest));
}

#[test]
fn debug_output_and_urls_keep_secrets() {
    let config = offline(&format!("{NODE}[[file]]\ndestination = \"/a\"\ncontents = \"hunter2\"\n")).unwrap();
    assert!(!format!("{config:?}").contains("hunter2"));
    let url = Source::Https("https://user:hunter2@host:8443/a/b?X-Amz-Signature=hunter2#c".into());
    assert_eq!(url.to_string(), "https://host:8443/a/b?…");
    assert!(!format!("{url:?}").contains("hunter2"));
    assert_eq!(Source::S3 { bucket: "b".into(), key: "k/l".into() }.to_string(), "s3://b/k/l");
    assert_eq!(Source::File("/x".into()).to_string(), "file:///x");
}

#[test]
fn ids_and_digests_parse() {
    for right in ["vol-01234567", "vol-0123456789abcdef0"] {
        assert_eq!(right.parse::<VolumeId>().unwrap().to_string(), right);
    }
    for wrong in
        ["", "vol-", "vol-0123456", "vol-012345678", "vol-0123456789ABCDEF0", "vol-0123456789abcdeg0", "i-01234567"]
    {
        assert!(wrong.parse::<VolumeId>().is_err(), "{wrong}");
    }
    // FIPS 180-2, appendix B.1.
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(abc.parse(), Ok(Sha256Digest::of(b"abc")));
    assert_eq!(Sha256Digest::of(b"abc").to_string(), abc);
    for wrong in ["", "ba78", &abc[1..], &format!("+{}", &abc[1..]), &"é".repeat(32)] {
        assert!(wrong.parse::<Sha256Digest>().is_err(), "{wrong}");
    }
}

#[test]
fn the_schema_is_consistent_and_the_text_above_complete() {
    for table in schema::TABLES {
        assert!(!table.doc().is_empty() && !table.doc().starts_with(' '), "{}", table.name);
        for key in table.keys {
            assert!(std::ptr::eq(*key, table.key(key.name).unwrap()), "{} twice in {}", key.name, table.name);
            assert!(key.doc().ends_with('.'), "{}", key.name);
            let literal = matches!(key.kind, Kind::Flag | Kind::FlagOr(_) | Kind::List | Kind::Names);
            assert_eq!(literal, !key.example.starts_with('"'), "{}", key.name);
            assert!(key.presence != Presence::Required || !table.one_of.contains(&key.name), "{}", key.name);
        }
        for name in table.one_of.iter().chain(table.pair.iter().flatten()) {
            assert!(table.key(name).is_some(), "{name}");
        }
    }
    // The text above has every key, except those that exclude another of its keys.
    let root = toml::de::DeTable::parse(EVERYTHING).unwrap();
    for table in schema::TABLES {
        let value = root.get_ref().get(table.name).unwrap().get_ref();
        let entries: Vec<_> =
            value.as_array().map_or_else(|| vec![value], |list| list.iter().map(toml::Spanned::get_ref).collect());
        let others = [("hooks", "script"), ("cluster", "asg_names")];
        for key in table.keys.iter().filter(|key| !others.contains(&(key.table, key.name))) {
            let there = entries.iter().any(|entry| entry.as_table().unwrap().get(key.name).is_some());
            assert!(there, "{} {}", table.header(), key.name);
        }
    }
}

#[test]
fn a_wrong_value_leaves_the_launch_hooks_names_known() {
    let names = "[lifecycle]\nasg_name = \"a\"\nhook_name = \"h\"\n";
    // The lines below the names, and the result: hold_for in minutes, on_failure, heartbeat_timeout in minutes.
    let cases = [
        ("", (60, OnFailure::Hold, None)),
        ("hold_for = 16", (60, OnFailure::Hold, None)),
        ("hold_for = \"never\"\non_failure = \"abandon\"", (60, OnFailure::Abandon, None)),
        ("on_failure = \"wait\"\nhold_for = \"2m\"", (2, OnFailure::Hold, None)),
        ("heartbeat_timeout = 15m\nhold_for = \"2m\"", (2, OnFailure::Hold, None)),
        ("heartbeat_timeout = \"15m\"\nhold_fro = \"2m\"", (60, OnFailure::Hold, Some(15))),
        ("terminate_hook_name = \"\"", (60, OnFailure::Hold, None)),
        ("[volume]\nid = 1", (60, OnFailure::Hold, None)),
    ];
    for (below, (hold_for, on_failure, heartbeat_timeout)) in cases {
        let read = crate::config::lifecycle(text("config.toml", &format!("{names}{below}\n")), None);
        let read = read.unwrap_or_else(|| panic!("{below}: nothing is known"));
        assert_eq!((read.asg_name.as_str(), read.hook_name.as_str()), ("a", "h"), "{below}");
        assert_eq!((read.hold_for, read.on_failure), (hold_for * MINUTE, on_failure), "{below}");
        assert_eq!(read.heartbeat_timeout, heartbeat_timeout.map(|minutes: u32| minutes * MINUTE), "{below}");
    }
    for names in ["asg_name = \"a\"", "asg_name = \"a\"\nhook_name = 1", "asg_name = \"\"\nhook_name = \"h\""] {
        assert_eq!(crate::config::lifecycle(text("config.toml", &format!("[lifecycle]\n{names}\n")), None), None);
    }
}
