//! A cluster as a user of the Terraform module describes it, and the module's results for it.

#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test uses its part")]

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hcl::Value;

use crate::module::{Instance, Module, Object, object};

pub const ROOT: &str = "packaging/terraform";
pub const NODE: &str = "packaging/terraform/modules/node-module";
/// Where the module is told that it is.
pub const REGION: &str = "eu-central-1";
pub const ACCOUNT: &str = "123456789012";
/// The provider's default tags.
pub const DEFAULT_TAG: (&str, &str) = ("team", "data");

/// A user's hook script.
pub const SCRIPT: &str = "configure_cluster_node() {\n  systemctl start kafka\n}\nwait_for_healthy_cluster() {\n  kafka-check \"$1\" \"$2\"\n}\n";

/// Three nodes as in the seed's usage example.
pub fn cluster() -> Object {
    let nodes = ["00", "01", "02"].map(|id| {
        object([
            ("node_id", id.into()),
            ("node_ip", format!("10.0.1.1{}", &id[1..]).into()),
            ("node_subnet_id", "subnet-1".into()),
        ])
    });
    let files = ["00", "01", "02"].map(|id| {
        let file = object([
            ("contents", BASE64_STANDARD.encode(format!("broker.id={id}\n")).into()),
            ("destination", "/etc/kafka/server.properties".into()),
        ]);
        object([("node_id", id.into()), ("node_files_toupload", Value::Array(vec![file]))])
    });
    let Value::Object(inputs) = object([
        ("app_name", "cluster-test-setup".into()),
        ("node_image", "ami-1".into()),
        ("node_agent_in_image", true.into()),
        ("node_key_name", "my-keypair".into()),
        ("instance_type", "m6i.large".into()),
        ("security_groups", vec!["sg-1"].into()),
        ("nodes", Value::Array(nodes.to_vec())),
        ("node_files", Value::Array(files.to_vec())),
        ("node_config_script", BASE64_STANDARD.encode(SCRIPT).into()),
        (
            "default_data_volume",
            object([
                ("file_system_type", "xfs".into()),
                ("mount_path", "/mydata".into()),
                ("mount_path_owner_user", "ec2-user".into()),
                ("mount_path_owner_group", "ec2-user".into()),
                ("size_in_gibs", 16.into()),
                ("type", "gp3".into()),
                ("mount_params", vec!["noatime"].into()),
            ]),
        ),
    ]) else {
        unreachable!()
    };
    inputs
}

/// The module and its inner one.
pub struct Modules {
    pub root: Module,
    pub node: Module,
}

impl Modules {
    pub fn read() -> Modules {
        Modules { root: Module::read(ROOT), node: Module::read(NODE) }
    }

    /// The root module with these inputs. Errors: the message of a check that does not hold.
    pub fn root(&self, inputs: &Object) -> Result<Instance<'_>, String> {
        let current = |name: &str, value: &str| object([("current", object([(name, value.into())]))]);
        let here = object([
            ("aws_caller_identity", current("account_id", ACCOUNT)),
            ("aws_partition", current("partition", "aws")),
            ("aws_region", current("id", REGION)),
        ]);
        let profile = object([("node_instance_profile", object([("id", "profile-1".into())]))]);
        let world = [("data".to_owned(), here), ("aws_iam_instance_profile".to_owned(), profile)];
        self.root.instantiate(inputs, &world.into_iter().collect())
    }

    /// Each node's module with what the root gives it, by node id. Errors: the message of a check that does not hold.
    pub fn nodes(&self, inputs: &Object) -> Result<BTreeMap<String, Instance<'_>>, String> {
        let call = self.root.block("module", &["cluster_nodes"]);
        let mut root = self.root(inputs)?;
        let each = root.value(&call.body, "for_each");
        let mut nodes = BTreeMap::new();
        for (id, value) in each.as_object().unwrap() {
            root.context.declare_var("each", object([("key", id.as_str().into()), ("value", value.clone())]));
            let meta = ["source", "for_each"];
            let given = call.body.attributes().filter(|attribute| !meta.contains(&attribute.key.as_str()));
            let given: Result<Object, String> =
                given.map(|given| Ok((given.key.to_string(), root.evaluate(&given.expr)?))).collect();
            let zone = ("availability_zone", Value::from(format!("{REGION}a")));
            let volume = object([("node_data", object([("id", volume_id(id).into()), zone.clone()]))]);
            let subnet = ("aws_subnet", object([("node_subnet", object([zone]))]));
            let tags = object([(DEFAULT_TAG.0, DEFAULT_TAG.1.into())]);
            let data = object([("aws_default_tags", object([("current", object([("tags", tags)]))])), subnet]);
            let world = [("aws_ebs_volume".to_owned(), volume), ("data".to_owned(), data)];
            let node = self.node.instantiate(&given?, &world.into_iter().collect())?;
            node.preconditions(&["aws_launch_template", "node"])?;
            nodes.insert(id.clone(), node);
        }
        Ok(nodes)
    }
}

/// The id that EC2 gave the volume of this node.
pub fn volume_id(node_id: &str) -> String {
    format!("vol-0123456789abcde{node_id}")
}

/// The user data of every node, by node id. Errors: the message of a check that does not hold.
pub fn user_data(inputs: &Object) -> Result<BTreeMap<String, String>, String> {
    let modules = Modules::read();
    let nodes = modules.nodes(inputs)?;
    let text = |node: &Instance| node.local("user_data").as_str().unwrap().to_owned();
    Ok(nodes.iter().map(|(id, node)| (id.clone(), text(node))).collect())
}

/// What cloud-init writes to /etc/node-agent/config.toml.
pub fn config_text(user_data: &str) -> String {
    let (_, block) = user_data.split_once("    content: |\n").unwrap();
    let lines = block.lines().take_while(|line| line.starts_with("      ") || line.trim().is_empty());
    lines.map(|line| format!("{}\n", line.get(6..).unwrap_or_default())).collect()
}

/// These inputs with one changed.
pub fn with(mut inputs: Object, name: &str, value: impl Into<Value>) -> Object {
    inputs.insert(name.to_owned(), value.into());
    inputs
}

/// These inputs with one attribute of `default_data_volume` changed.
pub fn volume(inputs: &Object, name: &str, value: impl Into<Value>) -> Object {
    let mut volume = inputs["default_data_volume"].as_object().unwrap().clone();
    volume.insert(name.to_owned(), value.into());
    with(inputs.clone(), "default_data_volume", Value::Object(volume))
}
