//! The module's IAM policies, as far as IAM's rules matter here.

#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test uses its part")]

use std::collections::BTreeMap;

use hcl::structure::{BlockLabel, Body};

use crate::cluster::{ACCOUNT, Modules, REGION};
use crate::module::{Instance, Object, attribute, object};

pub struct Statement {
    pub actions: Vec<String>,
    resources: Vec<String>,
    /// Test, key, values.
    conditions: Vec<(String, String, Vec<String>)>,
}

/// What is asked of IAM.
pub struct Request {
    pub action: String,
    pub resource: String,
    pub keys: BTreeMap<String, Vec<String>>,
}

/// The module's document of this name.
pub fn document(name: &str, inputs: &Object) -> Vec<Statement> {
    let modules = Modules::read();
    let mut root = modules.root(inputs).unwrap();
    let document = modules.root.block("data", &["aws_iam_policy_document", name]);
    let mut statements = Vec::new();
    for block in document.body.blocks() {
        if block.identifier() == "statement" {
            statements.push(statement(&root, &block.body));
            continue;
        }
        assert_eq!((block.identifier(), block.labels()), ("dynamic", &[BlockLabel::from("statement")][..]));
        let content = block.body.blocks().next().unwrap();
        for value in root.value(&block.body, "for_each").as_array().unwrap() {
            root.context.declare_var("statement", object([("value", value.clone())]));
            statements.push(statement(&root, &content.body));
        }
    }
    statements
}

fn statement(root: &Instance, body: &Body) -> Statement {
    let list = |body: &Body, name: &str| -> Vec<String> {
        root.value(body, name).as_array().unwrap().iter().map(|item| item.as_str().unwrap().to_owned()).collect()
    };
    let text = |body: &Body, name: &str| root.value(body, name).as_str().unwrap().to_owned();
    // A statement without an effect allows.
    assert!(attribute(body, "effect").is_none());
    let known = ["sid", "actions", "resources"];
    assert!(body.attributes().all(|attribute| known.contains(&attribute.key.as_str())), "{body:?}");
    let conditions = body.blocks().inspect(|block| assert_eq!(block.identifier(), "condition"));
    Statement {
        actions: list(body, "actions"),
        resources: list(body, "resources"),
        conditions: conditions
            .map(|block| (text(&block.body, "test"), text(&block.body, "variable"), list(&block.body, "values")))
            .collect(),
    }
}

pub fn glob(pattern: &str, text: &str) -> bool {
    let pattern = regex_lite::escape(pattern).replace(r"\*", ".*").replace(r"\?", ".");
    regex_lite::Regex::new(&format!("^{pattern}$")).unwrap().is_match(text)
}

pub fn allows(policy: &[Statement], request: &Request) -> bool {
    policy.iter().any(|statement| {
        statement.actions.iter().any(|pattern| glob(pattern, &request.action))
            && statement.resources.iter().any(|pattern| glob(pattern, &request.resource))
            && statement.conditions.iter().all(|(test, key, values)| {
                let given = request.keys.get(key).map_or(&[][..], Vec::as_slice);
                match test.as_str() {
                    "StringEquals" => given.iter().any(|given| values.contains(given)),
                    // Of none, all are right.
                    "ForAllValues:StringLike" => given.iter().all(|g| values.iter().any(|pattern| glob(pattern, g))),
                    "ArnLike" | "StringLike" => given.iter().any(|g| values.iter().any(|pattern| glob(pattern, g))),
                    "Bool" => given.iter().any(|given| values.contains(given)),
                    "Null" => given.is_empty() == (values[0] == "true"),
                    other => panic!("{other}: teach the test what it means"),
                }
            })
    })
}

pub fn ec2(kind: &str, id: &str) -> String {
    format!("arn:aws:ec2:{REGION}:{ACCOUNT}:{kind}/{id}")
}

pub fn group(name: &str) -> String {
    format!("arn:aws:autoscaling:{REGION}:{ACCOUNT}:autoScalingGroup:0b8f4a5c:autoScalingGroupName/{name}")
}

/// The keys of a resource with these tags.
pub fn tagged(tags: &[(&str, &str)]) -> BTreeMap<String, Vec<String>> {
    tags.iter().map(|(key, value)| (format!("aws:ResourceTag/{key}"), vec![(*value).to_owned()])).collect()
}
