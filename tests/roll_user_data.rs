//! A roll reads the configuration in the user data of packaging's Terraform module and examples, before it takes a node.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

#[path = "terraform/cluster.rs"]
mod cluster;
#[path = "terraform/module.rs"]
mod module;
#[path = "roll/cluster.rs"]
mod rolling;

use cluster::{user_data, with};
use node_agent::config::embedded::{self, Embedded};
use node_agent::config::{Text, UnknownKeys, check_offline};
use rolling::{Behaviour, Cluster, Healthy, group};

const CLOUD_CONFIG: &str = include_str!("../packaging/user-data/cloud-config.yaml");
const SHELL: &str = include_str!("../packaging/user-data/user-data.sh");
/// The rule that a list of one group breaks.
const ALONE: &str = "partial-list";

/// Each form of user data that packaging has, by name.
fn forms() -> Vec<(&'static str, String)> {
    let baked = cluster::cluster();
    let fetched =
        with(with(baked.clone(), "node_agent_url", "https://example.com/x"), "node_agent_sha256", "a".repeat(64));
    let fetched = with(fetched, "node_agent_in_image", false);
    let module = |inputs| user_data(inputs).unwrap().remove("00").unwrap();
    vec![
        ("the module's, with the agent in the image", module(&baked)),
        ("the module's, with a URL", module(&fetched)),
        ("cloud-config.yaml", CLOUD_CONFIG.to_owned()),
        ("user-data.sh", SHELL.to_owned()),
    ]
}

#[test]
fn the_configuration_in_each_form_of_user_data_passes_the_offline_check() {
    for (form, text) in forms() {
        let Embedded::Config { text, .. } = embedded::find(text.as_bytes()) else { panic!("{form}: not found") };
        let report = check_offline(Text { name: form.to_owned(), text }, UnknownKeys::Mistakes);
        assert!(report.errors.is_empty(), "{form}: {}", report.errors);
        assert!(report.warnings.is_empty(), "{form}: {:?}", report.warnings);
    }
}

#[test]
fn a_roll_reads_each_form_of_user_data_and_refuses_a_configuration_that_is_invalid() {
    let forms = forms();
    let cluster = Cluster::new(&Behaviour { nodes: 2 * forms.len(), ..Behaviour::default() });
    cluster.publish("ami-2", Healthy);
    let roll = |number: usize| cluster.start(&[], &["--asg", &group(number), "--override", ALONE]);
    let mut rolls = Vec::new();
    for (at, (form, text)) in forms.iter().enumerate() {
        for (number, other) in [(2 * at, "ext4"), (2 * at + 1, "btrfs")] {
            let with = |image: &str, text: String| {
                let mut version = cluster.version(number, image, Healthy);
                version.user_data = Some(text.into());
                version
            };
            cluster.run_version(number, with("ami-1", text.clone()));
            cluster.publish_for(number, with("ami-2", text.replace("\"xfs\"", &format!("{other:?}"))));
            rolls.push((*form, other, roll(number)));
        }
    }
    for (form, other, roll) in rolls {
        let (code, log) = roll.end();
        let (wanted, says) = match other {
            "ext4" => (0, ".file_system: \"xfs\" -> \"ext4\""),
            _ => (6, "is invalid: "),
        };
        assert!(code == wanted && log.contains(says), "{form}, {other}: {code}\n{log}");
    }
}
