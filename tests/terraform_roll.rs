//! The rolling update on apply, by the real `terraform`: when the roll command is called, with what, and what follows from its failure.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

#[path = "terraform/cluster.rs"]
mod cluster;
#[path = "terraform/module.rs"]
mod module;
#[path = "terraform/real.rs"]
mod real;

use cluster::{cluster, with};
use module::Object;
use real::{OURS, Workspace, applied, expected, terraform_is_missing, workspace};

const ALL: &str =
    "--asg> <cluster-test-setup-node-00> <--asg> <cluster-test-setup-node-01> <--asg> <cluster-test-setup-node-02>";
const ROLL_AGAIN: (&str, usize) = ("delete then create null_resource.roll_instances", 1);

/// Three nodes that this module made, and that nothing has rolled.
fn made() -> Workspace {
    let made = applied("to-roll", |new| {
        new.configure(OURS, &cluster());
        new.init();
        new.plan();
        new.apply();
    });
    made.forget_rolls();
    made
}

/// The cluster with a new image.
fn changed() -> Object {
    with(cluster(), "node_image", "ami-2")
}

/// What the roll command is called with for all three nodes.
fn called(more: &str) -> String {
    format!("eu-central-1: <roll> <--yes> <--timeout> <10m> <{ALL}{more}\n")
}

/// Plans and applies these inputs, and returns what the apply says.
fn apply(made: &Workspace, inputs: &Object) -> String {
    made.configure(OURS, inputs);
    made.plan();
    made.apply()
}

/// Applies the new image with a roll that fails, and returns what the apply says.
fn fail_to_roll(made: &Workspace) -> String {
    made.configure(OURS, &changed());
    made.plan();
    made.let_rolls_fail(true);
    let said = made.refusal(&["apply", "plan"]);
    made.let_rolls_fail(false);
    said
}

#[test]
fn a_changed_template_calls_the_roll_once_with_all_groups() {
    if terraform_is_missing() {
        return;
    }
    let made = made();
    made.configure(OURS, &changed());
    let changes = [ROLL_AGAIN, ("update aws_launch_template.node: image_id latest_version", 3)];
    assert_eq!(made.plan().changes(), expected(&changes));
    made.apply();
    assert_eq!(made.rolled(), called(""));
    assert_eq!(made.plan().changes(), expected(&[]));
}

#[test]
fn a_changed_check_alone_calls_no_roll() {
    if terraform_is_missing() {
        return;
    }
    let made = made();
    made.configure(OURS, &with(with(cluster(), "roll_check", "true"), "roll_on_apply", false));
    assert_eq!(made.plan().changes(), expected(&[]));
}

#[test]
fn the_roll_gets_the_check_and_the_leader_as_they_were_written() {
    if terraform_is_missing() {
        return;
    }
    let made = made();
    let check = "curl -f \"http://$host/a b\" && echo 'it''s' `id` \\ ; exit 0";
    let inputs = with(with(changed(), "roll_check", check), "roll_leader", "echo \"$1\" | head -n 1");
    apply(&made, &with(inputs, "asg_inservice_timeout_in_mins", 90));
    let more = format!(" <--check> <{check}> <--leader> <echo \"$1\" | head -n 1>");
    assert_eq!(made.rolled(), called(&more).replace("10m", "90m"));
}

#[test]
fn the_roll_command_may_be_several_words_with_quotes_and_variables() {
    if terraform_is_missing() {
        return;
    }
    let made = made();
    let inputs = with(changed(), "roll_command", "env A='x  y' ./roll \"$AWS_REGION\" '*'");
    apply(&made, &with(inputs, "roll_hooks", "hooks of mine.sh"));
    let called = called(" <--hooks> <hooks of mine.sh>").replace("<roll>", "<eu-central-1> <*> <roll>");
    assert_eq!(made.rolled(), called);
}

#[test]
fn without_roll_on_apply_nothing_is_called_and_the_apply_says_how_to_roll() {
    if terraform_is_missing() {
        return;
    }
    let made = made();
    let said = apply(&made, &with(changed(), "roll_on_apply", false));
    let how = "roll_on_apply is false: nothing was rolled. To roll: ./roll roll --cluster 'stateful-cluster=cluster-test-setup' --yes";
    assert!(said.contains(how), "{said}");
    assert_eq!(made.rolled(), "");
    assert_eq!(made.plan().changes(), expected(&[]));
}

#[test]
fn after_a_roll_that_failed_the_next_apply_calls_it_again_and_changes_nothing_else() {
    if terraform_is_missing() {
        return;
    }
    let made = made();
    let said = fail_to_roll(&made);
    assert!(said.contains("local-exec provisioner error"), "{said}");

    assert_eq!(made.plan().changes(), expected(&[ROLL_AGAIN]));
    made.apply();
    assert_eq!(made.rolled(), called("").repeat(2));
    assert_eq!(made.plan().changes(), expected(&[]));
}

/// The cluster without its last node.
fn two_nodes() -> Object {
    let mut inputs = cluster();
    for name in ["nodes", "node_files"] {
        inputs[name].as_array_mut().unwrap().pop();
    }
    inputs
}

#[test]
fn a_removed_node_is_gone_before_the_roll_of_the_others_begins() {
    if terraform_is_missing() {
        return;
    }
    let made = made();
    made.drift(|aws| aws["seconds_to_delete_a_group"] = 3.into());
    // Nothing else changes, so that nothing else keeps the roll waiting.
    apply(&made, &two_nodes());
    let two = called("").replace(" <--asg> <cluster-test-setup-node-02>", "");
    assert_eq!(made.rolled(), two);
    assert_eq!(made.groups_at_the_roll(), ["cluster-test-setup-node-00", "cluster-test-setup-node-01"]);
}

#[test]
fn a_node_that_is_removed_after_a_failed_roll_is_gone_before_the_next() {
    if terraform_is_missing() {
        return;
    }
    let made = made();
    fail_to_roll(&made);
    made.drift(|aws| aws["seconds_to_delete_a_group"] = 3.into());
    apply(&made, &with(two_nodes(), "node_image", "ami-2"));
    assert_eq!(made.groups_at_the_roll(), ["cluster-test-setup-node-00", "cluster-test-setup-node-01"]);
}

#[test]
fn a_fresh_cluster_is_rolled_when_all_of_it_is_there() {
    if terraform_is_missing() {
        return;
    }
    let new = workspace();
    new.configure(OURS, &cluster());
    new.init();
    new.plan();
    new.apply();
    assert_eq!(new.rolled(), called(""));
    assert_eq!(new.groups_at_the_roll().len(), 3);
}

#[test]
fn a_cluster_without_nodes_calls_no_roll() {
    if terraform_is_missing() {
        return;
    }
    let made = made();
    let none = hcl::Value::Array(vec![]);
    apply(&made, &with(with(cluster(), "nodes", none.clone()), "node_files", none));
    assert_eq!(made.rolled(), "");
}
