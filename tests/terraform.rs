//! The Terraform module: it replaces the module that the project began with, and the agent accepts the configuration that it gives a
//! node.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

#[path = "terraform/cluster.rs"]
mod cluster;
#[path = "terraform/module.rs"]
mod module;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use cluster::{DEFAULT_TAG, Modules, NODE, ROOT, SCRIPT, cluster, config_text, user_data, volume, volume_id, with};
use hcl::Value;
use hcl::eval::{Context, Evaluate};
use hcl::expr::Expression;
use hcl::structure::Block;
use module::{Module, attribute, expression, object, try_expression};
use node_agent::config::{self, Account, Config, Contents, FileSystemType, Groups, OnFailure, Scope, Script, Text};

/// What the seed's document says in its tables.
const SEED: &str = include_str!("terraform/seed-tables.txt");
/// What a node of [`cluster`] gets, for readers, and for cloud-init's own check in `.ci/packaging-lint`.
const USER_DATA: &str = "tests/terraform/user-data.yaml";

// The seed's tables.

/// A row of its table of inputs.
struct Input {
    name: String,
    description: Option<String>,
    of_type: Expression,
    default: Option<Expression>,
}

fn table(heading: &str) -> &'static str {
    let (_, rest) = SEED.split_once(&format!("{heading}\n\nName Description")).unwrap();
    let (_, rows) = rest.split_once('\n').unwrap();
    rows.split("\n\n").next().unwrap()
}

fn seed_inputs() -> Vec<Input> {
    let mut rows = vec![String::new()];
    for line in table("Inputs").lines() {
        let row = rows.last_mut().unwrap();
        row.push_str(line);
        row.push('\n');
        // A row ends with its last column.
        if ["yes", "no"].contains(&line) || line.ends_with(" yes") || line.ends_with(" no") {
            rows.push(String::new());
        }
    }
    assert_eq!(rows.pop().unwrap(), "");
    rows.iter().map(|row| input(row.trim_end())).collect()
}

fn input(row: &str) -> Input {
    let (row, required) = row.rsplit_once(char::is_whitespace).unwrap();
    let (name, row) = row.split_once(' ').unwrap();
    let row = row.trim_end();
    let breaks = || row.match_indices(char::is_whitespace).map(|(at, _)| at + 1);
    // Type and default have no marks around them: they begin where both can be read as what they are.
    let (start, of_type, default) = breaks()
        .filter(|at| {
            ["string", "number", "bool", "list(", "set(", "map(", "object("].iter().any(|t| row[*at..].starts_with(t))
        })
        .find_map(|start| {
            breaks().filter(|middle| *middle > start).find_map(|middle| {
                let of_type = try_expression(row[start..middle].trim())?;
                let default = match row[middle..].trim() {
                    "n/a" => None,
                    text => Some(try_expression(text)?),
                };
                Some((start, of_type, default))
            })
        })
        .unwrap_or_else(|| panic!("no type in: {row}"));
    assert_eq!(required == "yes", default.is_none(), "{name}");
    let description = row[..start].trim();
    let description = (description != "n/a").then(|| words(description));
    Input { name: name.to_owned(), description, of_type, default }
}

fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// As [`Expression`] compares, but for the order of an object's attributes and the way its keys are written. `a` may have more
/// attributes that can be left out.
fn same(a: &Expression, b: &Expression) -> bool {
    match (a, b) {
        (Expression::Object(a), Expression::Object(b)) => {
            let sorted = |object: &hcl::expr::Object<_, Expression>| -> BTreeMap<String, Expression> {
                object.iter().map(|(key, value): (&hcl::expr::ObjectKey, _)| (key.to_string(), value.clone())).collect()
            };
            let (a, b) = (sorted(a), sorted(b));
            let optional = |value: &Expression| value.to_string().starts_with("optional(");
            b.iter().all(|(key, value)| a.get(key).is_some_and(|ours| same(ours, value)))
                && a.iter().all(|(key, ours)| b.contains_key(key) || optional(ours))
        }
        (Expression::FuncCall(a), Expression::FuncCall(b)) => {
            a.name == b.name && a.args.len() == b.args.len() && a.args.iter().zip(&b.args).all(|(a, b)| same(a, b))
        }
        _ => a == b,
    }
}

#[test]
fn every_input_of_the_seed_is_there_with_its_type_default_and_description() {
    let module = Module::read(ROOT);
    let variables = module.variables();
    let inputs = seed_inputs();
    assert_eq!(inputs.len(), 15, "the table has as many rows");
    for Input { name, description, of_type, default } in inputs {
        let ours = variables.get(&name).unwrap_or_else(|| panic!("{name} is missing"));
        assert!(same(&ours.of_type, &of_type), "{name}: {} is not {of_type}", ours.of_type);
        if let Some(description) = description {
            assert_eq!(ours.description.as_deref().map(words), Some(description), "{name}");
        }
        // The script may be on S3 instead.
        let default = if name == "node_config_script" { Some(Expression::Null) } else { default };
        let right = match (&ours.default, &default) {
            (Some(ours), Some(default)) => same(ours, default),
            (ours, default) => ours.is_none() && default.is_none(),
        };
        assert!(right, "{name}: the default is {:?}, not {default:?}", ours.default);
    }
    let new: BTreeSet<_> = variables.keys().filter(|name| !SEED.contains(&format!("\n{name} "))).collect();
    assert!(new.iter().all(|name| variables[*name].default.is_some()), "{new:?}: a new input must not be required");
}

#[test]
fn every_output_and_resource_of_the_seed_is_there_at_its_address() {
    let (root, node) = (Module::read(ROOT), Module::read(NODE));
    for row in table("Outputs").lines() {
        root.block("output", &[row.split(' ').next().unwrap()]);
    }
    let (_, resources) = SEED.split_once("Resources\n\nName Type\n").unwrap();
    let resources: Vec<_> = resources.split("\n\n").next().unwrap().lines().collect();
    assert_eq!(resources.len(), 9);
    for row in resources {
        let (address, kind) = row.split_once(' ').unwrap();
        let (resource, name) = address.split_once('.').unwrap();
        root.block(if kind == "resource" { "resource" } else { "data" }, &[resource, name]);
    }
    // Its answer to question 4: what must be imported, and so must stay, under each node's id.
    let nodes = root.block("module", &["cluster_nodes"]);
    assert_eq!(attribute(&nodes.body, "source").unwrap(), &expression("\"./modules/node-module\""));
    let modules = Modules::read();
    let keyed = modules.root(&cluster()).unwrap();
    assert_eq!(
        keyed.value(&nodes.body, "for_each").as_object().unwrap().keys().collect::<Vec<_>>(),
        ["00", "01", "02"]
    );
    node.block("resource", &["aws_ebs_volume", "node_data"]);
    node.block("resource", &["aws_network_interface", "node_network_interface"]);
}

#[test]
fn a_migration_creates_only_termination_hooks_and_group_tags() {
    let resources = |dir: &str| -> BTreeSet<String> {
        let module = Module::read(dir);
        let blocks = module.blocks("resource", &["*", "*"]);
        blocks.iter().map(|block| format!("{}.{}", block.labels()[0].as_str(), block.labels()[1].as_str())).collect()
    };
    let (_, rows) = SEED.split_once("Resources\n\nName Type\n").unwrap();
    let rows = rows.split("\n\n").next().unwrap().lines();
    let of_the_seed = rows.filter_map(|row| row.strip_suffix(" resource"));
    assert_eq!(resources(ROOT), of_the_seed.map(str::to_owned).collect());
    let of_a_node = [
        "aws_autoscaling_group.node_asg",
        "aws_ebs_volume.node_data",
        "aws_launch_template.node",
        "aws_network_interface.node_network_interface",
    ];
    let new = ["aws_autoscaling_group_tag.node_asg", "aws_autoscaling_lifecycle_hook.terminate"];
    assert_eq!(resources(NODE), of_a_node.into_iter().chain(new).map(str::to_owned).collect());
}

// What nodes get.

/// The configuration in user data, as the agent reads it.
fn accepted(user_data: &str) -> Config {
    let text = Text { name: "config.toml".to_owned(), text: config_text(user_data) };
    config::load(text, None, Scope::Offline).unwrap_or_else(|mistakes| panic!("{mistakes}\n{user_data}"))
}

#[test]
fn every_node_gets_a_configuration_that_the_agent_accepts() {
    let all = user_data(&cluster()).unwrap();
    assert_eq!(all.len(), 3);
    for (id, text) in &all {
        let Config { node, lifecycle, cluster, volumes, files, hooks, timeouts, .. } = accepted(text);
        assert_eq!((node.id.as_str(), node.ip.to_string()), (id.as_str(), format!("10.0.1.1{}", &id[1..])));

        let lifecycle = lifecycle.unwrap();
        assert_eq!(lifecycle.asg_name, format!("cluster-test-setup-node-{id}"));
        assert_eq!(lifecycle.hook_name, "cluster-test-setup-node-asg-hook");
        // The launch hook's timeout was how long a failed node could be repaired.
        assert_eq!((lifecycle.on_failure, lifecycle.hold_for), (OnFailure::Hold, Duration::from_secs(3600)));

        assert_eq!(lifecycle.terminate_hook_name.as_deref(), Some("cluster-test-setup-node-terminate-hook"));
        let tag = Groups::Tagged { key: "stateful-cluster".to_owned(), value: "cluster-test-setup".to_owned() };
        assert_eq!(cluster.unwrap().groups, tag);

        let [volume] = volumes.as_slice() else { panic!("{volumes:?}") };
        assert_eq!(volume.id.as_str(), volume_id(id));
        assert_eq!((volume.device_name.as_str(), volume.mount_path.to_str()), ("/dev/sdf", Some("/mydata")));
        assert_eq!((volume.file_system, volume.install_tools), (FileSystemType::Xfs, true));
        assert_eq!(volume.mount_options, ["noatime"]);
        let user = Some(Account::Name("ec2-user".to_owned()));
        assert_eq!((&volume.owner, &volume.group), (&user, &user));

        let [file] = files.as_slice() else { panic!("{files:?}") };
        assert_eq!((file.destination.to_str(), file.mode), (Some("/etc/kafka/server.properties"), 0o644));
        assert_eq!(file.contents, Contents::Inline(format!("broker.id={id}\n").into_bytes()));

        let hooks = hooks.unwrap();
        assert_eq!(hooks.script, Script::Inline(SCRIPT.as_bytes().to_vec()));
        assert_eq!(hooks.configure, "configure_cluster_node");
        assert_eq!(hooks.health_check, "wait_for_healthy_cluster");
        let retried = [timeouts.aws, timeouts.volume, timeouts.downloads];
        assert_eq!((retried, timeouts.hooks), ([Duration::from_secs(1800); 3], Duration::from_secs(3600)));
    }
}

#[test]
fn the_agent_accepts_every_drain_timeout_that_the_plan_accepts() {
    assert_eq!(accepted(&user_data(&cluster()).unwrap()["00"]).timeouts.drain, Duration::from_mins(10));
    for (text, seconds) in
        [("90s", 90), ("10m", 600), ("1h30m", 5400), ("1h 30m", 5400), ("999h 9999m 999999s", 5_196_339)]
    {
        let all = user_data(&with(cluster(), "drain_timeout", text)).unwrap();
        assert_eq!(accepted(&all["00"]).timeouts.drain, Duration::from_secs(seconds), "{text}");
    }
    for text in ["", " ", "0s", "0h 00m", "10", "5M", "-1m", "1.5h", "10m0", "soon"] {
        let error = user_data(&with(cluster(), "drain_timeout", text)).unwrap_err();
        assert!(error.contains("drain_timeout must be a time"), "{text:?}: {error}");
    }
    // White space around a time is harmless.
    for text in [" 10m", "1h "] {
        accepted(&user_data(&with(cluster(), "drain_timeout", text)).unwrap()["00"]);
    }
}

#[test]
fn the_user_data_shown_to_readers_is_what_a_node_gets() {
    let fetched = with(cluster(), "node_agent_url", "https://files.example.com/node-agent-1.0.0-x86_64");
    let fetched = with(fetched, "node_agent_sha256", "0".repeat(64));
    let text = &user_data(&fetched).unwrap()["00"];
    let shown = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(USER_DATA)).unwrap_or_default();
    assert!(shown == *text, "write this into {USER_DATA}:\n\n{text}");
}

#[test]
fn a_node_may_have_another_image_and_another_disk_than_the_rest() {
    let mut inputs = cluster();
    let nodes = inputs["nodes"].as_array_mut().unwrap();
    let disk =
        object([("mount_path", "/other".into()), ("file_system_type", "ext4".into()), ("size_in_gibs", "32".into())]);
    nodes[1].as_object_mut().unwrap().insert("node_data_disk".to_owned(), disk);
    let all = user_data(&inputs).unwrap();
    let paths: Vec<_> = all.values().map(|text| accepted(text).volumes[0].mount_path.clone()).collect();
    assert_eq!(paths, ["/mydata", "/other", "/mydata"].map(std::path::PathBuf::from));
    assert_eq!(accepted(&all["01"]).volumes[0].file_system, FileSystemType::Ext4);
}

#[test]
fn destinations_with_any_characters_arrive_as_they_are() {
    let odd = "q\"b\\s <&> ${x} %{y} ä\u{1F600} 'z'";
    let file = object([("contents", "aGVsbG8=".into()), ("destination", format!("/etc/{odd}").into())]);
    let other = object([("contents", "aGVs\nbG8=\n".into()), ("destination", "/etc/lines".into())]);
    let files = object([("node_id", "00".into()), ("node_files_toupload", Value::Array(vec![file, other]))]);
    let inputs = with(cluster(), "node_files", Value::Array(vec![files]));
    let all = user_data(&inputs).unwrap();

    let config = accepted(&all["00"]);
    assert_eq!(config.files[0].destination.to_str(), Some(format!("/etc/{odd}").as_str()));
    assert_eq!(config.files[1].contents, Contents::Inline(b"hello".to_vec()));
    // A node that is not in node_files has none.
    assert!(accepted(&all["01"]).files.is_empty());
}

#[test]
fn mount_params_may_stand_in_one_entry_as_mount_takes_them() {
    for params in [vec![], vec!["noatime", "nodiratime"], vec!["noatime,nodiratime"], vec!["noatime, nodiratime", ""]] {
        let empty = params.is_empty();
        let all = user_data(&volume(&cluster(), "mount_params", params)).unwrap();
        let options = accepted(&all["00"]).volumes.remove(0).mount_options;
        assert_eq!(options, if empty { vec![] } else { vec!["noatime", "nodiratime"] });
    }
}

#[test]
fn a_script_on_s3_wins_over_the_embedded_one_which_it_falls_back_to() {
    let url = "s3://bucket/hooks/script.sh";
    let both = with(cluster(), "node_config_script_s3_url", url);
    for (inputs, fallback) in [(both.clone(), Some(SCRIPT)), (with(both, "node_config_script", Value::Null), None)] {
        let hooks = accepted(&user_data(&inputs).unwrap()["00"]).hooks.unwrap();
        let Script::Remote { source, fallback: given } = hooks.script else { panic!("{:?}", hooks.script) };
        assert_eq!((source.to_string(), given), (url.to_owned(), fallback.map(|text| text.as_bytes().to_vec())));
    }
}

#[test]
fn one_of_the_two_scripts_is_required_and_the_message_names_both() {
    let error = user_data(&with(cluster(), "node_config_script", Value::Null)).unwrap_err();
    assert!(error.contains("node_config_script and node_config_script_s3_url"), "{error}");
}

#[test]
fn wrong_inputs_are_refused_by_the_plan() {
    let sha256 = "0".repeat(64);
    let one = |name: &str, value: &str| with(cluster(), name, value);
    let both = |url: &str, sha256: &str| with(one("node_agent_url", url), "node_agent_sha256", sha256);
    let right = "https://files.example.com/node-agent";
    assert!(user_data(&both(right, &sha256)).is_ok());
    let relative = object([("contents", "".into()), ("destination", "etc/x".into())]);
    let relative = object([("node_id", "00".into()), ("node_files_toupload", Value::Array(vec![relative]))]);
    for (inputs, said) in [
        (one("node_config_script_s3_url", "https://bucket/key"), "s3://bucket/key"),
        (one("node_config_script_s3_url", "s3://bucket/"), "s3://bucket/key"),
        (one("node_config_script_s3_url", "s3://bucket/*"), "must not have *"),
        (one("node_agent_url", right), "node_agent_sha256"),
        (one("node_agent_sha256", &sha256), "node_agent_url"),
        (both("http://files.example.com/node-agent", &sha256), "https://"),
        (both("https://x/'; reboot; '", &sha256), "quotes"),
        (both(right, "1234"), "64"),
        (volume(&cluster(), "file_system_type", "btrfs"), "ext4 or xfs"),
        (with(cluster(), "node_files", Value::Array(vec![relative])), "absolute"),
        (one("node_config_script", &BASE64_STANDARD.encode(format!("{SCRIPT}{}", "#".repeat(12_288)))), "16 KiB"),
        (one("kms_key_arn", "arn:aws:kms:eu-central-1:123456789012:alias/ebs"), "not of an alias"),
        (one("kms_key_arn", "1234abcd-12ab-34cd-56ef-1234567890ab"), "the ARN of a key"),
    ] {
        let error = user_data(&inputs).unwrap_err();
        assert!(error.contains(said), "{said:?} is not in {error:?}");
    }
}

#[test]
fn what_is_not_the_users_own_takes_less_than_2_kib_of_the_16() {
    let fetched = with(cluster(), "node_agent_url", format!("https://files.example.com/{}", "a".repeat(100)));
    for inputs in [cluster(), with(fetched, "node_agent_sha256", "0".repeat(64))] {
        let text = &user_data(&inputs).unwrap()["00"];
        let own = BASE64_STANDARD.encode(SCRIPT).len() + BASE64_STANDARD.encode("broker.id=00\n").len();
        assert!(text.len() - own < 2048, "{} bytes", text.len() - own);
    }
}

#[test]
fn the_binary_is_fetched_and_checked_or_baked_in_and_nothing_waits_for_the_service() {
    let baked = user_data(&cluster()).unwrap().remove("00").unwrap();
    assert!(baked.contains("[systemctl, start, --no-block, node-agent.service]") && !baked.contains("curl"), "{baked}");
    let fetched = with(cluster(), "node_agent_url", "https://files.example.com/node-agent");
    let fetched = user_data(&with(fetched, "node_agent_sha256", "ab".repeat(32))).unwrap().remove("00").unwrap();
    let at = |text: &str| fetched.find(text).unwrap_or_else(|| panic!("{text:?} is missing in\n{fetched}"));
    assert!(at("'https://files.example.com/node-agent'") < at(&format!("'{}  '", "ab".repeat(32))));
    assert!(at("sha256sum --check") < at("install --now"));
    assert!(!fetched.contains("systemctl"), "{fetched}");
    for text in [baked, fetched] {
        assert!(text.starts_with("#cloud-config\n") && text.contains("permissions: \"0600\""), "{text}");
    }
}

/// What cloud-init's runcmd hands to the shell.
fn run_command(user_data: &str) -> String {
    let (_, block) = user_data.split_once("\n  - |\n").unwrap();
    block.lines().map(|line| format!("{}\n", line.trim_start_matches("    "))).collect()
}

#[test]
fn the_fetched_binary_installs_itself_and_one_with_another_checksum_is_not_started() {
    // Before the world has a /tmp of its own: the checkout may lie there.
    let (a_url, a_sha256) = ("https://example.com/node-agent", "a".repeat(64));
    let inputs = with(with(cluster(), "node_agent_url", a_url), "node_agent_sha256", a_sha256.as_str());
    let script = run_command(&user_data(&inputs).unwrap()["00"]);
    assert!(script.contains(a_url) && script.contains(&a_sha256), "{script}");
    let world = support::World::new();
    let node = world.launch();
    let binary = "#!/bin/sh\necho \"$@\" > /var/log/started\n";
    let url = world.sim.put_page("/node-agent", binary);
    let right = node_agent::config::Sha256Digest::of(binary.as_bytes()).to_string();
    let user_data = |sha256: &str| script.replace(a_url, &url).replace(&a_sha256, sha256);
    let run = |script: String| {
        node.write("/root/runcmd", script);
        node.shell(&format!(
            "export CURL_CA_BUNDLE={}; sh /root/runcmd >/dev/null 2>&1 && echo done || echo failed",
            support::CA
        ))
    };

    assert_eq!(run(user_data(&"0".repeat(64))), "failed");
    assert_eq!(node.shell("ls /var/log/started 2>/dev/null || true"), "");
    assert_eq!(run(user_data(&right)), "done");
    assert_eq!(node.read("/var/log/started"), "install --now\n");
    assert_eq!(node.shell("ls -d /root/node-agent.* 2>/dev/null || true"), "", "something was left behind");
}

// The resources.

#[test]
fn what_may_be_secret_is_marked_so_that_no_plan_shows_it() {
    let (root, node) = (Module::read(ROOT), Module::read(NODE));
    for (module, inputs) in
        [(&root, ["node_files", "node_config_script"]), (&node, ["node_files_toupload", "node_config_script"])]
    {
        let variables = module.variables();
        assert!(inputs.iter().all(|name| variables[*name].sensitive));
    }
    for (module, output) in [(&root, "node_id_to_node_userdata_script_map"), (&node, "node_userdata_script")] {
        let block = module.block("output", &[output]);
        assert_eq!(attribute(&block.body, "sensitive"), Some(&Expression::Bool(true)), "{output}");
    }
}

fn inner<'a>(block: &'a Block, kind: &str) -> &'a Block {
    block.body.blocks().find(|block| block.identifier() == kind).unwrap_or_else(|| panic!("there is no {kind}"))
}

#[test]
fn no_change_of_inputs_replaces_a_volume_or_takes_the_agents_tags_from_it() {
    let node = Module::read(NODE);
    let volume = node.block("resource", &["aws_ebs_volume", "node_data"]);
    // By the provider's documentation and source, a change of these means another volume.
    let forcing =
        ["availability_zone", "encrypted", "kms_key_id", "outpost_arn", "snapshot_id", "multi_attach_enabled"];
    let ignored = attribute(&inner(volume, "lifecycle").body, "ignore_changes").unwrap();
    let Expression::Array(ignored) = ignored else { panic!("{ignored}") };
    let ignored: Vec<_> = ignored.iter().map(ToString::to_string).collect();
    for name in forcing {
        let set = attribute(&volume.body, name).is_some();
        assert!(!set || ignored.contains(&name.to_owned()), "{name} is set and not ignored");
    }
    for tag in ["formatting", "formatted"] {
        for tags in ["tags", "tags_all"] {
            assert!(ignored.contains(&format!("{tags}[\"node-agent:{tag}\"]")), "{tags} {tag}: {ignored:?}");
        }
    }
    assert_eq!(attribute(&volume.body, "encrypted"), Some(&Expression::Bool(true)));
}

#[test]
fn each_node_is_a_group_of_one_with_a_launch_hook_that_abandons_and_imdsv2_only() {
    let node = Module::read(NODE);
    let is = |block: &Block, name: &str, value: &str| {
        assert_eq!(attribute(&block.body, name).map(ToString::to_string).as_deref(), Some(value), "{name}");
    };
    let template = node.block("resource", &["aws_launch_template", "node"]);
    let metadata = inner(template, "metadata_options");
    is(metadata, "http_tokens", "\"required\"");
    is(metadata, "http_put_response_hop_limit", "var.http_put_response_hop_limit");
    is(inner(inner(template, "block_device_mappings"), "ebs"), "encrypted", "true");
    let interface = "aws_network_interface.node_network_interface.id";
    is(inner(template, "network_interfaces"), "network_interface_id", interface);
    is(
        node.block("resource", &["aws_network_interface", "node_network_interface"]),
        "private_ips",
        "[\n  var.node_ip\n]",
    );
    let group = node.block("resource", &["aws_autoscaling_group", "node_asg"]);
    is(group, "min_size", "1");
    is(group, "max_size", "1");
    let hook = inner(group, "initial_lifecycle_hook");
    is(hook, "default_result", "\"ABANDON\"");
    is(hook, "heartbeat_timeout", "var.asg_lifecycle_hook_heartbeat_timeout");
}

#[test]
fn each_group_has_a_termination_hook_that_continues() {
    let modules = Modules::read();
    let hook = modules.node.block("resource", &["aws_autoscaling_lifecycle_hook", "terminate"]);
    assert!(attribute(&hook.body, "count").is_none() && attribute(&hook.body, "for_each").is_none());
    let group = attribute(&hook.body, "autoscaling_group_name").unwrap().to_string();
    assert_eq!(group, "aws_autoscaling_group.node_asg.name");
    for (id, node) in modules.nodes(&cluster()).unwrap() {
        let value = |name: &str| node.value(&hook.body, name);
        assert_eq!(value("lifecycle_transition"), "autoscaling:EC2_INSTANCE_TERMINATING".into());
        assert_eq!((value("default_result"), value("heartbeat_timeout")), ("CONTINUE".into(), 300.into()));
        let config = accepted(node.local("user_data").as_str().unwrap());
        assert_eq!(value("name").as_str(), config.lifecycle.unwrap().terminate_hook_name.as_deref(), "{id}");
    }
}

#[test]
fn no_group_launches_a_successor_before_its_old_node_is_gone() {
    let node = Module::read(NODE);
    let group = node.block("resource", &["aws_autoscaling_group", "node_asg"]);
    let policy = &inner(group, "instance_maintenance_policy").body;
    let given: Vec<_> = ["min_healthy_percentage", "max_healthy_percentage"]
        .map(|name| attribute(policy, name).unwrap().to_string())
        .into();
    assert_eq!(given, ["0", "100"]);
}

#[test]
fn groups_have_the_clusters_tag_and_an_apply_takes_no_other_tag_away() {
    let modules = Modules::read();
    let group = modules.node.block("resource", &["aws_autoscaling_group", "node_asg"]);
    let kept = modules.node.block("resource", &["aws_autoscaling_group_tag", "node_asg"]);
    let at_launch = inner(group, "dynamic");
    assert_eq!(at_launch.labels()[0].as_str(), "tag");
    assert!(group.body.blocks().all(|block| block.identifier() != "tag"), "a tag that nothing keeps current");
    let ignored = attribute(&inner(group, "lifecycle").body, "ignore_changes").unwrap();
    assert_eq!(*ignored, expression("[initial_lifecycle_hook, launch_template[0].version, tag]"));

    for (id, node) in modules.nodes(&cluster()).unwrap() {
        let name = format!("cluster-test-setup-node-{id}");
        let tags = [("Name", name.as_str()), ("stateful-cluster", "cluster-test-setup"), DEFAULT_TAG];
        let tags = object(tags.map(|(key, value)| (key, value.into())));
        assert_eq!(node.value(&at_launch.body, "for_each"), tags);
        assert_eq!(node.value(&kept.body, "for_each"), tags);
    }
    for (block, each) in [(inner(at_launch, "content"), "tag"), (inner(kept, "tag"), "each")] {
        let is = |name: &str, text: &str| assert_eq!(*attribute(&block.body, name).unwrap(), expression(text));
        is("key", &format!("{each}.key"));
        is("value", &format!("{each}.value"));
        is("propagate_at_launch", "true");
    }
}

#[test]
fn the_provider_that_is_asked_for_has_the_maintenance_policy() {
    let readme = fs::read_to_string(Module::read(ROOT).dir.join("README.md")).unwrap();
    assert!(readme.contains("AWS provider 5.26.0"));
    for dir in [ROOT, NODE] {
        let module = Module::read(dir);
        let providers = &inner(module.block("terraform", &[]), "required_providers").body;
        assert_eq!(
            *attribute(providers, "aws").unwrap(),
            expression("{ source = \"hashicorp/aws\", version = \">= 5.26.0\" }")
        );
    }
}

// What `terraform validate` would find.

#[test]
fn every_argument_and_block_is_one_that_the_provider_has() {
    let schema = schema();
    let mut seen = 0;
    for module in [Module::read(ROOT), Module::read(NODE)] {
        for kind in ["resource", "data"] {
            for block in module.blocks(kind, &["*", "*"]) {
                let name = block.labels()[0].as_str();
                let known = &schema[kind][name]["arguments"];
                assert!(known.is_object(), "{kind} {name}: run tests/terraform/provider-schema.js again");
                let meta = ["depends_on", "for_each", "lifecycle", "provisioner"];
                check_body(&format!("{kind} {name}"), &block.body, known, &meta);
                seen += 1;
                if let Some(lifecycle) = block.body.blocks().find(|block| block.identifier() == "lifecycle")
                    && let Some(Expression::Array(ignored)) = attribute(&lifecycle.body, "ignore_changes")
                {
                    for name in ignored.iter().map(ToString::to_string) {
                        // One key of a map: `tags["key"]`.
                        let name = name.split('[').next().unwrap();
                        assert!(known.get(name).is_some(), "{kind} {name}: there is no {name} to ignore");
                    }
                }
            }
        }
    }
    assert!(seen > 10);
}

fn schema() -> serde_json::Value {
    serde_json::from_str(include_str!("terraform/provider-schema.json")).unwrap()
}

/// An argument is null in the schema, a block an object. Terraform's own arguments and blocks are `meta`.
fn check_body(place: &str, body: &hcl::Body, known: &serde_json::Value, meta: &[&str]) {
    for attribute in body.attributes().filter(|attribute| !meta.contains(&attribute.key.as_str())) {
        assert!(known.get(attribute.key.as_str()).is_some(), "{place}: there is no {}", attribute.key);
    }
    for block in body.blocks().filter(|block| !meta.contains(&block.identifier())) {
        let (name, body) = match block.identifier() {
            "dynamic" => (block.labels()[0].as_str(), &inner(block, "content").body),
            name => (name, &block.body),
        };
        assert!(known[name].is_object(), "{place}: there is no block {name}");
        check_body(&format!("{place} {name}"), body, &known[name], &[]);
    }
}

#[test]
fn every_reference_leads_to_something_that_is_there() {
    let schema = schema();
    let found = |pattern: &str, text: &str| -> Vec<Vec<String>> {
        let regex = regex_lite::Regex::new(pattern).unwrap();
        let all = regex.captures_iter(text);
        all.map(|found| found.iter().map(|part| part.map_or(String::new(), |part| part.as_str().to_owned())).collect())
            .collect()
    };
    for dir in [ROOT, NODE] {
        let module = Module::read(dir);
        let variables = module.variables();
        let used: BTreeSet<String> =
            found(r"\bvar\.(\w+)", &module.source).into_iter().map(|mut found| found.remove(1)).collect();
        // Accepted for the seed's sake: nothing needs jq.
        let declared: BTreeSet<String> =
            variables.into_keys().filter(|name| dir == NODE || name != "jq_download_url").collect();
        assert_eq!(used, declared, "{dir}: variables used and declared");

        let locals: BTreeSet<String> = module
            .blocks("locals", &[])
            .into_iter()
            .flat_map(|block| block.body.attributes())
            .map(|local| local.key.to_string())
            .collect();
        let used: BTreeSet<String> =
            found(r"\blocal\.(\w+)", &module.source).into_iter().map(|mut found| found.remove(1)).collect();
        assert_eq!(used, locals, "{dir}: locals used and declared");

        for found in found(r"(data\.)?\b(aws_\w+)\.([\w-]+)\.(\w+)", &module.source) {
            let kind = if found[1].is_empty() { "resource" } else { "data" };
            module.block(kind, &[&found[2], &found[3]]);
            let readable = schema[kind][&found[2]]["attributes"].as_array().unwrap();
            assert!(readable.iter().any(|name| *name == found[4]), "{}: there is no {}", found[0], found[4]);
        }
    }
    // The call gives the inner module exactly what it asks for.
    let (root, node) = (Module::read(ROOT), Module::read(NODE));
    let call = root.block("module", &["cluster_nodes"]);
    let given: BTreeSet<_> = call.body.attributes().map(|attribute| attribute.key.to_string()).collect();
    let asked = node.variables().into_keys().chain(["source", "for_each"].map(str::to_owned));
    assert_eq!(given, asked.collect());
    for found in found(r"\bnode\.(asg_name|launch_template_version|node_userdata_script)\b", &root.source) {
        node.block("output", &[&found[1]]);
    }
}

#[test]
fn the_modules_readme_tables_every_input_and_output() {
    let root = Module::read(ROOT);
    let readme = fs::read_to_string(root.dir.join("README.md")).unwrap_or_default();
    let mut text = "| input | type | default | |\n|---|---|---|---|\n".to_owned();
    for (name, variable) in root.variables() {
        let of_type = words(&variable.of_type.to_string()).replace("( ", "(").replace(" )", ")");
        let default =
            variable.default.map_or("required".to_owned(), |default| format!("`{}`", words(&default.to_string())));
        let description = variable.description.as_deref().map(words).unwrap_or_default();
        writeln!(text, "| `{name}` | `{of_type}` | {default} | {description} |").unwrap();
    }
    assert!(readme.contains(&text), "write this into the module's README:\n\n{text}");
    for block in root.blocks("output", &["*"]) {
        let name = block.labels()[0].as_str();
        assert!(readme.contains(&format!("\n| `{name}` |")), "the README does not have the output {name}");
    }
}

#[test]
fn the_modules_readme_has_the_message_of_each_refusal() {
    let root = Module::read(ROOT);
    let readme = fs::read_to_string(root.dir.join("README.md")).unwrap();
    let quoted = regex_lite::Regex::new(r#"error_message\s*=\s*"((?:[^"\\]|\\.)*)""#).unwrap();
    for module in [root, Module::read(NODE)] {
        let messages: Vec<_> = quoted.captures_iter(&module.source).map(|found| found[1].replace('\\', "")).collect();
        assert!(messages.len() > 10, "{messages:?}");
        for message in messages {
            assert!(readme.contains(&format!(" | {message} |\n")), "the README has no refusal {message:?}");
        }
    }
}

#[test]
fn the_cluster_in_the_readme_comes_up() {
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let call = readme.split_once("```hcl\n").unwrap().1.split_once("```").unwrap().0;
    let script = format!("{:?}", BASE64_STANDARD.encode(SCRIPT));
    let call = hcl::parse(&call.replace("filebase64(\"hooks.sh\")", &script)).unwrap();
    let given = call.blocks().next().unwrap().body.attributes().filter(|attribute| attribute.key.as_str() != "source");
    let inputs = given.map(|given| (given.key.to_string(), given.expr.evaluate(&Context::new()).unwrap())).collect();
    let all = user_data(&inputs).unwrap();
    assert_eq!(accepted(&all["00"]).volumes[0].mount_path, Path::new("/mydata"));
}

#[test]
fn the_cluster_in_the_page_of_each_shipped_hook_has_the_members_of_the_hook() {
    for name in ["etcd", "zookeeper", "kafka", "mongodb"] {
        let read = |path: String| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
        let (page, hook) = (read(format!("docs/clusters/{name}.md")), read(format!("packaging/hooks/{name}.sh")));
        let text = page.split_once("```hcl\n").unwrap().1.split_once("```").unwrap().0;
        let body = hcl::parse(text).unwrap();
        let call = body.blocks().find(|block| block.identifier() == "module").unwrap();
        let given = call.body.attributes().filter(|attribute| attribute.key.as_str() != "source");
        let mut inputs = cluster();
        // The hook is too large for user data, and stands in the bucket alone.
        inputs.shift_remove("node_config_script");
        for attribute in given {
            inputs.insert(attribute.key.to_string(), attribute.expr.evaluate(&Context::new()).unwrap());
        }
        let members = user_data(&inputs).unwrap().into_iter().map(|(id, text)| {
            let config = accepted(&text);
            let Script::Remote { source, fallback: None } = config.hooks.unwrap().script else { panic!("{text}") };
            assert_eq!(source.to_string(), format!("s3://my-bucket/{name}.sh"));
            format!("{id}={}", config.node.ip)
        });
        let members = format!("\nMEMBERS=\"{}\"\n", members.collect::<Vec<_>>().join(" "));
        assert!(hook.contains(&members), "{name}: {members}");
        assert!(
            page.contains(&format!("\nnode-agent roll --cluster stateful-cluster={name} --hooks {name}.sh")),
            "{name}"
        );
    }
}
