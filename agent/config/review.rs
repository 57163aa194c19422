//! What an operator's machine learns from a launch template's user data: the node, and whether its configuration is valid.

use std::collections::BTreeMap;

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

#[cfg(test)]
mod tests {
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
}
