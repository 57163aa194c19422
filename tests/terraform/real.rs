//! The real `terraform`, against the provider in `tests/terraform/provider`, which stands for hashicorp/aws and hashicorp/null.
//!
//! Each [`Workspace`] is a directory with a configuration, both modules, a state and an AWS, which is a JSON file. Making a
//! cluster takes Terraform seconds: [`applied`] makes one for all tests that begin with it, and each gets a copy.

#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test uses its part")]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use crate::cluster::{ACCOUNT, DEFAULT_TAG, REGION};
use crate::module::Object;

/// The module under its name in a workspace.
pub const OURS: &str = "./node-agent";
/// The module that it takes the place of.
pub const SEED: &str = "./seed";

/// The CodeBuild project that rolls a cluster.
pub const CODEBUILD: &str = "./ci/codebuild";

const MODULES: [(&str, &str); 3] =
    [(OURS, "packaging/terraform"), (SEED, "tests/terraform/seed-module"), ("./ci", "packaging/ci")];
const PROVIDER: &str = "tests/terraform/provider";
/// The oldest version that the seed's module takes, the oldest that ours takes, and the one that the schema is of.
const VERSIONS: [(&str, &str); 4] = [("aws", "4.50.0"), ("aws", "5.26.0"), ("aws", "6.25.0"), ("null", "3.2.1")];

/// Whether there is a `terraform` to test with. Where there is none, the test must end, and this says so.
pub fn terraform_is_missing() -> bool {
    let missing = Command::new("terraform").arg("version").output().is_err();
    if missing {
        eprintln!("NOT RUN: there is no `terraform` on the path, so this test has shown NOTHING.");
    }
    missing
}

fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Everything that these tests write is below this directory.
fn below() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("terraform-plans")
}

fn output(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

fn done(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = output(command);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(status.success(), "{command:?}: {status}\n{}{}", text(&stdout), text(&stderr));
    text(&stdout)
}

fn copy(from: &Path, to: &Path) {
    done(Command::new("cp").arg("-a").args([from, to]));
}

/// A configuration's directory, removed with it.
pub struct Workspace {
    dir: PathBuf,
    kept: bool,
}

impl Drop for Workspace {
    fn drop(&mut self) {
        if !self.kept {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// A workspace without a configuration, in an AWS with three subnets.
pub fn workspace() -> Workspace {
    furnished(unused("new"))
}

fn furnished(new: Workspace) -> Workspace {
    done(Command::new(checkout().join(".ci/tools")).arg("provider"));
    fs::create_dir_all(&new.dir).unwrap();
    for (name, dir) in MODULES {
        copy(&checkout().join(dir), &new.path(name));
    }
    mirror(&new.path("mirror"));
    let rules = "disable_checkpoint = true\nprovider_installation {\n  filesystem_mirror {\n";
    let path = new.path("mirror");
    fs::write(new.path("terraformrc"), format!("{rules}    path = {:?}\n  }}\n}}\n", path.display())).unwrap();
    let zones = ["a", "b", "c"]
        .map(|zone| json!({"availability_zone": format!("{REGION}{zone}"), "cidr_block": "10.0.0.0/16"}));
    let [one, two, three] = zones;
    let aws = json!({"account": ACCOUNT, "subnets": {"subnet-1": one, "subnet-2": two, "subnet-3": three}});
    fs::write(new.path("aws.json"), aws.to_string()).unwrap();
    fs::write(new.path("roll"), ROLL).unwrap();
    done(Command::new("chmod").arg("0755").arg(new.path("roll")));
    new
}

/// Stands for `node-agent`: records how it was called, with which groups in AWS, and fails where a file says so.
const ROLL: &str = r#"#!/bin/sh
{
  printf '%s' "$AWS_REGION:"
  printf ' <%s>' "$@"
  echo
} >>"$ROLLED"
grep -o ':autoScalingGroup:0*:autoScalingGroupName/[^"]*' "$STUB_AWS" | sort -u >"$ROLLED.groups"
[ ! -e "$ROLLED.fails" ]
"#;

fn unused(name: &str) -> Workspace {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    Workspace { dir: below().join(format!("{name}-{}-{number}", std::process::id())), kept: false }
}

/// Where Terraform finds providers, and finds no others.
fn mirror(dir: &Path) {
    let python =
        PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/node-agent/tools/terraform-provider/bin/python");
    let platform = match std::env::consts::ARCH {
        "aarch64" => "linux_arm64",
        _ => "linux_amd64",
    };
    for (name, version) in VERSIONS {
        let package = dir.join("registry.terraform.io/hashicorp").join(name).join(version).join(platform);
        fs::create_dir_all(&package).unwrap();
        let program = package.join(format!("terraform-provider-{name}_v{version}"));
        let start = format!("exec '{}' -B '{}' {name}", python.display(), checkout().join(PROVIDER).display());
        fs::write(&program, format!("#!/bin/sh\n{start}\n")).unwrap();
        done(Command::new("chmod").arg("0755").arg(&program));
    }
}

/// A copy of the workspace that `make` leaves, which is made once for all tests and again when anything has changed that it is
/// made from.
pub fn applied(name: &str, make: fn(&Workspace)) -> Workspace {
    fs::create_dir_all(below()).unwrap();
    let lock = File::create(below().join(format!("{name}.lock"))).unwrap();
    lock.lock().unwrap();
    let (base, stamp) = (below().join(name), below().join(format!("{name}.made-from")));
    let wanted = made_from().to_string();
    if fs::read_to_string(&stamp).ok() != Some(wanted.clone()) {
        let _ = fs::remove_dir_all(&base);
        // In its place from the beginning: Terraform notes where providers lie.
        make(&furnished(Workspace { dir: base.clone(), kept: true }));
        fs::write(&stamp, wanted).unwrap();
    }
    let mine = unused(name);
    copy(&base, &mine.dir);
    mine
}

/// Of all files that a workspace comes from, and of this test.
fn made_from() -> u64 {
    let mut hasher = DefaultHasher::new();
    let mut files = vec![checkout().join(PROVIDER), checkout().join("tests/terraform/provider-schema.json")];
    files.extend(MODULES.map(|(_, dir)| checkout().join(dir)));
    while let Some(path) = files.pop() {
        if path.is_dir() {
            let mut inner: Vec<_> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
            inner.sort();
            files.extend(inner);
        } else {
            path.hash(&mut hasher);
            fs::read(path).unwrap().hash(&mut hasher);
        }
    }
    let built = fs::metadata(std::env::current_exe().unwrap()).unwrap();
    (built.len(), built.modified().unwrap()).hash(&mut hasher);
    hasher.finish()
}

impl Workspace {
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn terraform<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new("terraform");
        command
            .args(arguments)
            .current_dir(&self.dir)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            // No settings and no credentials of who runs the test.
            .env("HOME", &self.dir)
            .env("TF_CLI_CONFIG_FILE", self.path("terraformrc"))
            .env("TF_IN_AUTOMATION", "1")
            .env("STUB_AWS", self.path("aws.json"))
            .env("ROLLED", self.path("rolled"));
        command
    }

    /// A configuration that calls the module at `source` with these inputs, as far as it has them.
    pub fn configure(&self, source: &str, inputs: &Object) {
        let mut module = serde_json::to_value(inputs).unwrap();
        module["source"] = source.into();
        if source == SEED {
            module
                .as_object_mut()
                .unwrap()
                .retain(|name, _| !name.starts_with("roll_") && name != "node_agent_in_image");
        } else if module.get("roll_command").is_none() {
            module["roll_command"] = "./roll".into();
        }
        let tags = json!({"tags": {(DEFAULT_TAG.0): DEFAULT_TAG.1}});
        let main = json!({
            "provider": {"aws": {"region": REGION, "default_tags": [tags]}},
            "module": {"cluster": module},
        });
        fs::write(self.path("main.tf.json"), serde_json::to_string_pretty(&main).unwrap()).unwrap();
    }

    /// Adds a call of the module at `source`, under this name.
    pub fn add_module(&self, name: &str, source: &str, mut inputs: Value) {
        inputs["source"] = source.into();
        fs::write(self.path(&format!("{name}.tf.json")), json!({"module": {(name): inputs}}).to_string()).unwrap();
    }

    /// As a root module that holds the AWS provider to this version.
    pub fn require_provider(&self, version: &str) {
        let aws = json!({"source": "hashicorp/aws", "version": version});
        let main = json!({"terraform": {"required_providers": [{"aws": aws}]}});
        fs::write(self.path("versions.tf.json"), main.to_string()).unwrap();
    }

    pub fn init(&self) {
        done(&mut self.terraform(["init", "-input=false", "-no-color"]));
    }

    pub fn init_with_upgrade(&self) {
        done(&mut self.terraform(["init", "-upgrade", "-input=false", "-no-color"]));
    }

    /// What `terraform` says when it refuses.
    pub fn refusal(&self, arguments: &[&str]) -> String {
        let Output { status, stdout, stderr } =
            output(self.terraform(&arguments[..1]).args(["-no-color", "-input=false"]).args(&arguments[1..]));
        let text = String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned();
        assert!(!status.success(), "not refused: {text}");
        // Terraform breaks lines where it likes.
        text.split_whitespace().filter(|word| !["│", "╷", "╵"].contains(word)).collect::<Vec<_>>().join(" ")
    }

    pub fn plan(&self) -> Plan {
        self.plan_of(&[])
    }

    /// A plan of these addresses alone.
    pub fn plan_of(&self, targets: &[&str]) -> Plan {
        let targets = targets.iter().map(|address| format!("-target={address}"));
        done(self.terraform(["plan", "-input=false", "-no-color", "-out=plan"]).args(targets));
        let json = done(&mut self.terraform(["show", "-json", "plan"]));
        Plan(serde_json::from_str(&json).unwrap())
    }

    pub fn import(&self, address: &str, id: &str) {
        done(&mut self.terraform(["import", "-input=false", "-no-color", address, id]));
    }

    /// Applies what was planned last.
    pub fn apply(&self) -> String {
        done(&mut self.terraform(["apply", "-input=false", "-no-color", "plan"]))
    }

    pub fn aws(&self) -> Value {
        serde_json::from_str(&fs::read_to_string(self.path("aws.json")).unwrap()).unwrap()
    }

    /// What happens in AWS without Terraform.
    pub fn drift(&self, change: impl FnOnce(&mut Value)) {
        let mut aws = self.aws();
        change(&mut aws);
        fs::write(self.path("aws.json"), aws.to_string()).unwrap();
    }

    /// A line for each time that a roll was called.
    pub fn rolled(&self) -> String {
        fs::read_to_string(self.path("rolled")).unwrap_or_default()
    }

    /// A cluster that has been rolled, as if nothing had been.
    pub fn forget_rolls(&self) {
        let _ = fs::remove_file(self.path("rolled"));
    }

    /// The groups that there were when a roll was called last.
    pub fn groups_at_the_roll(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("rolled.groups")).unwrap();
        text.lines().map(|line| line.rsplit('/').next().unwrap().to_owned()).collect()
    }

    /// Whether the roll command is to fail from now on.
    pub fn let_rolls_fail(&self, fail: bool) {
        let path = self.path("rolled.fails");
        if fail { fs::write(path, "").unwrap() } else { fs::remove_file(path).unwrap() }
    }
}

/// A plan as `terraform show -json` tells it.
pub struct Plan(Value);

impl Plan {
    /// The one resource of this type and name as it is to be.
    pub fn after(&self, what: &str) -> &Value {
        let (of_type, name) = what.split_once('.').unwrap();
        let all = self.0["resource_changes"].as_array().unwrap();
        &all.iter().find(|one| one["type"] == of_type && one["name"] == name).unwrap()["change"]["after"]
    }

    /// What a data source of this type and name, of the module, has read.
    pub fn read(&self, what: &str) -> &Value {
        let modules = self.0["prior_state"]["values"]["root_module"]["child_modules"].as_array().unwrap();
        let mut all = modules.iter().flat_map(|module| module["resources"].as_array().unwrap());
        let address = format!("module.cluster.data.{what}");
        &all.find(|one| one["address"] == address.as_str()).unwrap_or_else(|| panic!("{what} is not read"))["values"]
    }

    /// How often each change is in the plan, without which node it is of: the actions, the resource, and of an update the
    /// attributes that change.
    pub fn changes(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for resource in self.0["resource_changes"].as_array().unwrap() {
            let change = &resource["change"];
            let actions: Vec<_> = change["actions"].as_array().unwrap().iter().map(|a| a.as_str().unwrap()).collect();
            if ["no-op", "read"].contains(&actions[0]) {
                continue;
            }
            let what = format!("{}.{}", resource["type"].as_str().unwrap(), resource["name"].as_str().unwrap());
            let attributes =
                if actions == ["update"] { format!(": {}", updated(change).join(" ")) } else { String::new() };
            *counts.entry(format!("{} {what}{attributes}", actions.join(" then "))).or_insert(0) += 1;
        }
        counts
    }
}

fn updated(change: &Value) -> Vec<&str> {
    let (before, after) = (change["before"].as_object().unwrap(), &change["after"]);
    let unknown = &change["after_unknown"];
    before.keys().filter(|key| before[*key] != after[*key] || unknown[*key] == true).map(String::as_str).collect()
}

/// What a plan is expected to have, as [`Plan::changes`] has it.
pub fn expected(changes: &[(&str, usize)]) -> BTreeMap<String, usize> {
    changes.iter().map(|(change, count)| ((*change).to_owned(), *count)).collect()
}
