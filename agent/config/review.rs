//! What an operator's machine learns from a launch template's user data: the node, whether its configuration is valid, and what
//! differs from another one.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};
use toml::{Table, Value};

use super::embedded::{Embedded, find};
use super::{Text, USER_DATA, UnknownKeys, check_offline};

/// The node that a configuration describes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFacts {
    /// `[node] id`
    pub id: String,
    /// The data volumes by their mount path: an id, or a tag that finds one.
    pub volumes: BTreeMap<String, String>,
}

/// What `node-agent check --offline` would say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Review {
    /// Why a node could not come up with it.
    pub errors: Vec<String>,
    /// What is hardly meant, or known to a newer agent only.
    pub warnings: Vec<String>,
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key, as in `volume[/mydata].file_system`.
    pub key: String,
    /// Its value before; none where it was not set.
    pub old: Option<String>,
    /// Its value now.
    pub new: Option<String>,
}

/// The node of this user data; none where it holds no configuration that can be read. Unknown keys and wrong values elsewhere do not
/// hide it.
pub fn node(user_data: &[u8]) -> Option<NodeFacts> {
    let root = table(user_data)?;
    let id = root.get("node")?.get("id")?.as_str()?.to_owned();
    let volumes = root.get("volume").and_then(Value::as_array).into_iter().flatten().filter_map(|volume| {
        let name = volume.get("id").or_else(|| volume.get("tag"))?.as_str()?;
        Some((volume.get("mount_path")?.as_str()?.to_owned(), name.to_owned()))
    });
    Some(NodeFacts { id, volumes: volumes.collect() })
}

fn table(user_data: &[u8]) -> Option<Table> {
    match find(user_data) {
        Embedded::Config { text, .. } => text.parse().ok(),
        Embedded::None | Embedded::Unclear(_) => None,
    }
}

/// Checks the configuration in this user data; none where it holds none. A key that is not known here may be known to the agent that
/// the new image has: a warning.
pub fn review(user_data: &[u8]) -> Option<Review> {
    let text = match find(user_data) {
        Embedded::Config { text, .. } => text,
        Embedded::None => return None,
        Embedded::Unclear(why) => {
            let warnings = vec![format!("the user data {why}: it is not checked")];
            return Some(Review { warnings, ..Review::default() });
        }
    };
    let report = check_offline(Text { name: USER_DATA.to_owned(), text }, UnknownKeys::Warnings);
    let errors = report.errors.iter().map(ToString::to_string).collect();
    Some(Review { errors, warnings: report.warnings.iter().map(ToString::to_string).collect() })
}

/// The characters of a value that are shown.
const SHOWN: usize = 80;
/// The hex digits of a digest that are shown.
const DIGEST: usize = 12;
/// The keys whose values are secret, or long: only a digest is shown.
const SECRET: [&str; 4] = ["contents", "contents_base64", "script_base64", "script"];

/// What differs between two pieces of user data: key by key where both hold the configuration, else by digests. No secret is in it.
pub fn difference(old: Option<&[u8]>, new: Option<&[u8]>) -> Vec<Change> {
    if old == new {
        return Vec::new();
    }
    let parts = |data: Option<&[u8]>| match data.map(find) {
        Some(Embedded::Config { text, around }) => text.parse::<Table>().ok().map(|table| (table, around)),
        _ => None,
    };
    let (Some((before, around_before)), Some((after, around_after))) = (parts(old), parts(new)) else {
        let shown = |data: Option<&[u8]>| data.map(|data| format!("{} ({} bytes)", digest(data), data.len()));
        return vec![Change { key: "user data".to_owned(), old: shown(old), new: shown(new) }];
    };
    let (before, after) = (flattened(&before), flattened(&after));
    let mut keys: Vec<&String> = before.keys().chain(after.keys().filter(|key| !before.contains_key(*key))).collect();
    keys.sort();
    let differs = keys.into_iter().filter(|key| before.get(*key) != after.get(*key));
    let mut changes: Vec<Change> = differs
        .map(|key| Change { key: key.clone(), old: before.get(key).cloned(), new: after.get(key).cloned() })
        .collect();
    if around_before != around_after {
        let shown = |around: &str| Some(digest(around.as_bytes()));
        let key = "user data outside of the configuration".to_owned();
        changes.push(Change { key, old: shown(&around_before), new: shown(&around_after) });
    }
    changes
}

/// Every key with its value, for people.
fn flattened(root: &Table) -> BTreeMap<String, String> {
    let mut flat = BTreeMap::new();
    for (name, value) in root {
        match value {
            Value::Table(table) => flatten(name, table, &mut flat),
            Value::Array(entries) if entries.iter().all(Value::is_table) => {
                for (place, entry) in entries.iter().filter_map(Value::as_table).enumerate() {
                    let by = ["mount_path", "destination"].iter().find_map(|key| entry.get(*key)?.as_str());
                    let by = by.map_or_else(|| place.to_string(), str::to_owned);
                    flatten(&format!("{name}[{by}]"), entry, &mut flat);
                }
            }
            value => drop(flat.insert(name.clone(), shown(name, value))),
        }
    }
    flat
}

fn flatten(prefix: &str, table: &Table, flat: &mut BTreeMap<String, String>) {
    for (key, value) in table {
        // The same bytes are the same file, however they are written.
        let (key_shown, value) = match (key.as_str(), value.as_str()) {
            ("contents_base64", Some(text)) => ("contents", decoded(text)),
            ("script_base64", Some(text)) => ("script_base64", decoded(text)),
            (key, Some(text)) if key == "contents" => (key, digest(text.as_bytes())),
            (key, _) => (key, shown(key, value)),
        };
        flat.insert(format!("{prefix}.{key_shown}"), value);
    }
}

/// The digest of what a text in base64 stands for.
fn decoded(text: &str) -> String {
    use base64::Engine as _;
    let bare: String = text.split_whitespace().collect();
    let bytes = base64::engine::general_purpose::STANDARD.decode(&bare);
    digest(&bytes.unwrap_or_else(|_| text.as_bytes().to_vec()))
}

/// A value on one line, without secrets.
fn shown(key: &str, value: &Value) -> String {
    let Value::String(text) = value else { return shortened(&as_json(value)) };
    // A path to a script is no secret.
    let is_path = key == "script" && text.starts_with('/');
    let is_url = text.contains("://");
    let has_secret = is_url && (text.contains('?') || text.contains('@') || text.contains('#'));
    if SECRET.contains(&key) && !is_path || has_secret {
        return digest(text.as_bytes());
    }
    shortened(text)
}

/// JSON writes numbers, booleans and arrays as TOML does.
fn as_json(value: &Value) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

fn shortened(text: &str) -> String {
    let text = text.replace(['\n', '\t'], " ");
    if text.chars().count() <= SHOWN {
        return text;
    }
    format!("{}… ({})", text.chars().take(SHOWN).collect::<String>(), digest(text.as_bytes()))
}

fn digest(bytes: &[u8]) -> String {
    let digest = super::Sha256Digest(Sha256::digest(bytes).into()).to_string();
    format!("sha256:{}", digest.chars().take(DIGEST).collect::<String>())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CONFIG: &str = r#"
[node]
id = "00"
ip = "10.0.1.10"

[[volume]]
id = "vol-0123456789abcdef0"
mount_path = "/mydata"
file_system = "xfs"
mount_options = ["noatime"]

[[file]]
destination = "/etc/kafka/server.properties"
contents = "SECRET"
"#;

    #[test]
    fn a_nodes_id_and_volumes_are_read_beside_unknown_keys() {
        let text = CONFIG.replace("[node]", "[node]\ncolour = \"red\"");
        let node = node(text.as_bytes()).unwrap();
        assert_eq!(node.id, "00");
        assert_eq!(node.volumes["/mydata"], "vol-0123456789abcdef0");
    }

    #[test]
    fn an_unknown_key_warns_and_a_wrong_value_is_an_error() {
        assert_eq!(review(CONFIG.as_bytes()), Some(Review::default()));
        let newer = review(CONFIG.replace("[node]", "[node]\ncolour = \"red\"").as_bytes()).unwrap();
        assert!(newer.errors.is_empty() && newer.warnings.len() == 1, "{newer:?}");
        let wrong = review(CONFIG.replace("10.0.1.10", "no address").as_bytes()).unwrap();
        assert_eq!(wrong.errors.len(), 1, "{wrong:?}");
        // A mistyped key leaves its node without the right one.
        let mistyped = review(CONFIG.replace("ip =", "ipp =").as_bytes()).unwrap();
        assert_eq!((mistyped.errors.len(), mistyped.warnings.len()), (1, 1), "{mistyped:?}");
        assert_eq!(review(b"#!/bin/sh\necho hello\n"), None);
    }

    #[test]
    fn differences_are_told_key_by_key() {
        let new = CONFIG
            .replace("10.0.1.10", "10.0.1.11")
            .replace("noatime", "nodiratime")
            .replace("SECRET", "ANOTHER")
            .replace("file_system = \"xfs\"\n", "");
        let changes = difference(Some(CONFIG.as_bytes()), Some(new.as_bytes()));
        let keys: Vec<&str> = changes.iter().map(|change| change.key.as_str()).collect();
        let wanted = [
            "file[/etc/kafka/server.properties].contents",
            "node.ip",
            "volume[/mydata].file_system",
            "volume[/mydata].mount_options",
        ];
        assert_eq!(keys, wanted);
        assert_eq!(changes[2].new, None);
        assert!(difference(Some(CONFIG.as_bytes()), Some(CONFIG.as_bytes())).is_empty());
    }

    #[test]
    fn other_user_data_is_told_by_digests() {
        let changes = difference(Some(b"#!/bin/sh\npassword=hunter2\n"), Some(b"#!/bin/sh\n"));
        assert_eq!(changes.len(), 1);
        assert!(!format!("{changes:?}").contains("hunter2"));
    }

    #[test]
    fn the_same_contents_are_the_same_however_they_are_written() {
        let encoded = CONFIG.replace("contents = \"SECRET\"", "contents_base64 = \"U0VDUkVU\"");
        assert!(difference(Some(CONFIG.as_bytes()), Some(encoded.as_bytes())).is_empty());
    }

    proptest! {
        #[test]
        fn no_secret_is_ever_shown(old in "[A-Za-z0-9]{12,40}", new in "[A-Za-z0-9]{12,40}") {
            let text = |secret: &str| format!(
                "{CONFIG}\n[[file]]\ndestination = \"/a\"\nsource = \"https://host/x?sig={secret}\"\n\n\
                 [hooks]\nscript_source = \"https://user:{secret}@host/hooks.sh\"\nscript_base64 = \"{secret}\"\n"
            ).replace("SECRET", secret);
            let shown = format!("{:?}", difference(Some(text(&old).as_bytes()), Some(text(&new).as_bytes())));
            for secret in [&old, &new] {
                for part in secret.as_bytes().windows(6) {
                    let part = std::str::from_utf8(part).unwrap();
                    // Six hex digits of a digest may be the same by chance.
                    prop_assert!(!shown.contains(part) || part.bytes().all(|byte| byte.is_ascii_hexdigit()), "{part} in {shown}");
                }
            }
        }
    }
}
