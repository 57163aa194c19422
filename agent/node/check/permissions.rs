//! IAM: whether the role allows the actions of a run, and the statement that would allow them.
//!
//! The table of actions in docs/operations.md says which are required and what the others are for.

use futures_util::future::join_all;
use serde_json::{Map, Value, json};
use tokio::join;

use super::services::{Reachability, sources};
use super::{Context, Finding, ask};
use crate::aws::ec2::tag;
use crate::config::{self, Source};
use crate::failure::{Code, Failure};

/// One finding per action.
pub(super) async fn check(context: &Context<'_>) -> Vec<Finding> {
    let (volumes, instances, autoscaling, groups, s3) =
        join!(volumes(context), instances(context), autoscaling(context), groups(context), s3(context));
    [volumes, instances, autoscaling, Vec::from_iter(groups), s3].concat()
}

/// The actions that volumes need.
async fn volumes(context: &Context<'_>) -> Vec<Finding> {
    let (volumes, ec2, reachability) = (&context.config.volumes, &context.services.ec2, &context.reachable.ec2);
    if volumes.is_empty() {
        return Vec::new();
    }
    let to_detach: Vec<_> = volumes.iter().filter(|volume| volume.detach_on_terminate).collect();
    let (describe, attach, detach) = join!(
        attempt(reachability, async || ec2.try_describe_volumes().await),
        each(volumes.iter().map(|volume| attach(context, reachability, volume))),
        each(to_detach.iter().map(|volume| detach(context, reachability, volume))),
    );
    let arns = Arns(context);
    let on_both = |action: &str, volumes: &[String]| arns.on_both(action, volumes, &Map::new());
    let mut findings = vec![
        finding("ec2:DescribeVolumes", describe, None, &allow("ec2:DescribeVolumes", &json!("*"))),
        finding("ec2:AttachVolume", attach, None, &on_both("ec2:AttachVolume", &arns.volumes(volumes))),
    ];
    if !to_detach.is_empty() {
        let aside = "optional; without it the replacement waits until this instance is terminated";
        let statement = on_both("ec2:DetachVolume", &arns.volumes(to_detach));
        findings.push(finding("ec2:DetachVolume", detach, Some(aside), &statement));
    }
    findings
}

/// The other actions of EC2, which volumes and `[cluster]` need.
async fn instances(context: &Context<'_>) -> Vec<Finding> {
    let (volumes, ec2, reachability) = (&context.config.volumes, &context.services.ec2, &context.reachable.ec2);
    let cluster = context.cluster();
    if volumes.is_empty() && cluster.is_none() {
        return Vec::new();
    }
    let mut tagged: Vec<_> = volumes.iter().map(|volume| (volume.id.as_str(), tag::FORMATTED)).collect();
    tagged.push((&context.instance.instance_id, tag::STATUS));
    let (instances, tags) = join!(
        attempt(reachability, async || ec2.try_describe_instances().await),
        each(tagged.iter().map(|(resource, key)| attempt(reachability, async || ec2.try_tag(resource, key).await))),
    );
    let both_wait = cluster.map(|_| "two nodes that leave at once wait for each other until cluster.gate ends");
    let without = |effects: &[Option<&str>]| {
        let effects: Vec<_> = effects.iter().copied().flatten().collect();
        format!("optional; without it {}", effects.join(", and "))
    };
    let of_volumes = |effect| (!volumes.is_empty()).then_some(effect);
    let holder = of_volumes("the state of an instance that holds the volume is not shown");
    let format = of_volumes("only this root disk records that a volume was formatted");
    let status = Some("no tag of the instance shows why a node failed");
    let arns = Arns(context);
    let our_tags = Map::from_iter([("ForAllValues:StringLike".to_owned(), json!({ "aws:TagKeys": tag::ALL }))]);
    vec![
        finding(
            "ec2:DescribeInstances",
            instances,
            Some(&without(&[holder, both_wait])),
            &allow("ec2:DescribeInstances", &json!("*")),
        ),
        finding(
            "ec2:CreateTags",
            tags,
            Some(&without(&[format, status, both_wait])),
            &arns.on_both("ec2:CreateTags", &arns.volumes(volumes), &our_tags),
        ),
    ]
}

/// EC2's dry run fails for any volume in use. If the volume is attached here, no attachment is needed.
async fn attach(context: &Context<'_>, reachability: &Reachability, want: &config::Volume) -> Answer {
    let (ec2, instance) = (&context.services.ec2, &context.instance.instance_id);
    let answer =
        attempt(reachability, async || ec2.try_attach(want.id.as_str(), instance, &want.device_name).await).await;
    match answer {
        Answer::Failed(failure) if failure.code == Code::ApiRefused && is_here(context, want).await == Some(true) => {
            Answer::Needless
        }
        answer => answer,
    }
}

/// EC2's dry run may fail for a volume that is not attached here, but IAM's denial comes first.
async fn detach(context: &Context<'_>, reachability: &Reachability, want: &config::Volume) -> Answer {
    let (ec2, instance) = (&context.services.ec2, &context.instance.instance_id);
    let answer = attempt(reachability, async || ec2.try_detach(want.id.as_str(), instance).await).await;
    match answer {
        Answer::Failed(failure) if failure.code == Code::ApiRefused && is_here(context, want).await == Some(false) => {
            Answer::NotTried(format!("{} is not attached here", want.id))
        }
        answer => answer,
    }
}

/// Whether the volume is attached to this instance, if that can be read.
async fn is_here(context: &Context<'_>, want: &config::Volume) -> Option<bool> {
    let view = ask(async || context.services.ec2.volume(want.id.as_str()).await).await.ok()?;
    Some(view.attachments.iter().any(|attachment| attachment.instance_id == context.instance.instance_id))
}

/// The actions that `[lifecycle]` needs.
async fn autoscaling(context: &Context<'_>) -> Vec<Finding> {
    let Some(lifecycle) = &context.config.lifecycle else { return Vec::new() };
    let (client, reachability) = (&context.services.autoscaling, &context.reachable.autoscaling);
    let (state, hooks) = join!(
        attempt(reachability, async || client.membership(&context.instance.instance_id).await.map(drop)),
        attempt(reachability, async || client.hooks(&lifecycle.asg_name).await.map(drop)),
    );
    let group = json!(Arns(context).group(&lifecycle.asg_name));
    let (read_state, read_hooks) = ("autoscaling:DescribeAutoScalingInstances", "autoscaling:DescribeLifecycleHooks");
    let hooks = match hooks {
        // The setting replaces the action.
        Answer::Denied(_) if lifecycle.heartbeat_timeout.is_some() => {
            Finding::ok(line(read_hooks), "not allowed, and not needed: lifecycle.heartbeat_timeout is set")
        }
        answer => finding(
            read_hooks,
            answer,
            Some("optional; without it write the hook's heartbeat timeout as lifecycle.heartbeat_timeout"),
            &allow(read_hooks, &json!("*")),
        ),
    };
    vec![
        untried("autoscaling:CompleteLifecycleAction", "", &group),
        untried(
            "autoscaling:RecordLifecycleActionHeartbeat",
            "; where it is not allowed, the hook's timeout must be longer than the longest boot",
            &group,
        ),
        finding(
            read_state,
            state,
            Some(
                "optional; without it the agent does not detect that the instance is being terminated, and cannot \
                 distinguish a wrong hook name from a late answer",
            ),
            &allow(read_state, &json!("*")),
        ),
        hooks,
    ]
}

/// The action that the gate of `[cluster]` needs.
async fn groups(context: &Context<'_>) -> Option<Finding> {
    let (cluster, action) = (context.cluster()?, "autoscaling:DescribeAutoScalingGroups");
    let client = &context.services.autoscaling;
    let answer =
        attempt(&context.reachable.autoscaling, async || client.cluster(&cluster.groups).await.map(drop)).await;
    let aside = "optional; without it the node leaves without knowing whether another one is away";
    Some(finding(action, answer, Some(aside), &allow(action, &json!("*"))))
}

async fn s3(context: &Context<'_>) -> Vec<Finding> {
    let objects = sources(context.config).filter_map(|source| match source {
        Source::S3 { bucket, key } => Some((source, bucket, key)),
        Source::Https(_) | Source::File(_) => None,
    });
    let open = Ok(());
    join_all(objects.map(async |(source, bucket, key)| {
        let reachability = context.reachable.s3.get(bucket).unwrap_or(&open);
        let answer = attempt(reachability, async || context.services.sources.try_s3(bucket, key).await).await;
        let statement =
            allow("s3:GetObject", &json!(format!("arn:{}:s3:::{bucket}/{key}", partition(&context.instance.region))));
        let hint = "S3 answers the same if the object does not exist";
        finding(&format!("s3:GetObject {source}"), answer, Some(hint), &statement)
    }))
    .await
}

/// The result of trying an action.
enum Answer {
    Allowed,
    /// Its effect holds already.
    Needless,
    /// With the service's message.
    Denied(String),
    NotTried(String),
    Failed(Failure),
}

async fn attempt(reachability: &Reachability, call: impl AsyncFn() -> Result<(), Failure>) -> Answer {
    if let Err(why) = reachability {
        return Answer::NotTried(why.clone());
    }
    match ask(call).await {
        Ok(()) => Answer::Allowed,
        Err(failure) if failure.code == Code::AccessDenied => {
            let text = failure.to_string();
            // EC2 adds kilobytes that only sts:DecodeAuthorizationMessage can decode.
            let said = text.split(" Encoded authorization failure message").next().unwrap_or_default();
            Answer::Denied(said.to_owned())
        }
        Err(failure) => Answer::Failed(failure),
    }
}

/// The worst answer of several attempts.
async fn each(attempts: impl Iterator<Item = impl Future<Output = Answer>>) -> Answer {
    let answers = join_all(attempts).await;
    let rank = |answer: &Answer| match answer {
        Answer::Denied(_) => 3,
        Answer::Failed(_) => 2,
        Answer::NotTried(_) => 1,
        Answer::Allowed | Answer::Needless => 0,
    };
    answers.into_iter().max_by_key(rank).unwrap_or(Answer::Allowed)
}

fn line(action: &str) -> String {
    format!("IAM {action}")
}

fn finding(action: &str, answer: Answer, aside: Option<&str>, statement: &Value) -> Finding {
    let name = line(action);
    match answer {
        Answer::Allowed => Finding::ok(name, "allowed"),
        Answer::Needless => Finding::ok(name, "not tried: the volume is attached here already"),
        Answer::Denied(said) => {
            let aside = aside.map(|aside| format!(" ({aside})")).unwrap_or_default();
            Finding::attention(name, format!("{said}{aside}"), format!("add to the role's policy {statement}"))
        }
        Answer::NotTried(why) => Finding::unknown(name, format!("not tried: {why}")),
        // IAM allowed the call, but the resource refused it: the resource has a finding of its own.
        Answer::Failed(failure) if failure.code == Code::ApiRefused && action.starts_with("ec2:") => {
            Finding::unknown(name, format!("unknown: {failure}"))
        }
        Answer::Failed(failure) if failure.code == Code::ApiRefused && action.starts_with("s3:") => {
            Finding::failed(name, &failure).advise("put the object there, or correct the source")
        }
        Answer::Failed(failure) => Finding::failed(name, &failure),
    }
}

/// The finding of an action that has neither a dry run nor a harmless call.
fn untried(action: &str, aside: &str, group: &Value) -> Finding {
    let statement = allow(action, group);
    Finding::unknown(line(action), format!("cannot be tried without doing it{aside}"))
        .advise(format!("see that the role's policy has {statement}"))
}

fn allow(action: &str, resource: &Value) -> Value {
    json!({ "Effect": "Allow", "Action": action, "Resource": resource })
}

fn with_condition(mut statement: Value, condition: Map<String, Value>) -> Value {
    if !condition.is_empty() {
        statement["Condition"] = condition.into();
    }
    statement
}

/// What the role needs to attach a volume with this key (EBS user guide, "Requirements for Amazon EBS encryption").
pub(super) fn kms(region: &str, key: &str) -> Value {
    let use_it = ["kms:Decrypt", "kms:DescribeKey", "kms:GenerateDataKeyWithoutPlaintext", "kms:ReEncrypt*"];
    let service = format!("ec2.{region}.amazonaws.com");
    json!([
        {
            "Effect": "Allow", "Action": "kms:CreateGrant", "Resource": key,
            "Condition": { "Bool": { "kms:GrantIsForAWSResource": "true" } },
        },
        {
            "Effect": "Allow", "Action": use_it, "Resource": key,
            "Condition": { "StringEquals": { "kms:ViaService": service } },
        },
    ])
}

/// The ARNs of the resources.
struct Arns<'a>(&'a Context<'a>);

impl Arns<'_> {
    fn of(&self, service: &str, resource: &str) -> String {
        let instance = self.0.instance;
        format!("arn:{}:{service}:{}:{}:{resource}", partition(&instance.region), instance.region, instance.account_id)
    }

    fn volumes<'v>(&self, volumes: impl IntoIterator<Item = &'v config::Volume>) -> Vec<String> {
        volumes.into_iter().map(|volume| self.of("ec2", &format!("volume/{}", volume.id))).collect()
    }

    /// The wildcard stands for the group's id, which only Auto Scaling knows.
    fn group(&self, name: &str) -> String {
        self.of("autoscaling", &format!("autoScalingGroup:*:autoScalingGroupName/{name}"))
    }

    /// Allows an action, under this condition, on both the volumes and the instance. The next instance has another id, but the
    /// same group.
    fn on_both(&self, action: &str, volumes: &[String], condition: &Map<String, Value>) -> Value {
        let Some(lifecycle) = &self.0.config.lifecycle else {
            let instance = self.of("ec2", &format!("instance/{}", self.0.instance.instance_id));
            return with_condition(allow(action, &json!([volumes, &[instance]].concat())), condition.clone());
        };
        let group = json!({ "aws:ResourceTag/aws:autoscaling:groupName": lifecycle.asg_name });
        let mut of_group = Map::from_iter([("StringEquals".to_owned(), group)]);
        of_group.extend(condition.clone());
        let instances = allow(action, &json!(self.of("ec2", "instance/*")));
        let instances = with_condition(instances, of_group);
        if volumes.is_empty() {
            return instances;
        }
        json!([with_condition(allow(action, &json!(volumes)), condition.clone()), instances])
    }
}

/// The partition of the instance's region (AWS General Reference, "Amazon Resource Names").
fn partition(region: &str) -> &'static str {
    let partitions = [
        ("cn-", "aws-cn"),
        ("eusc-", "aws-eusc"),
        ("us-gov-", "aws-us-gov"),
        ("us-iso-", "aws-iso"),
        ("us-isob-", "aws-iso-b"),
        ("eu-isoe-", "aws-iso-e"),
        ("us-isof-", "aws-iso-f"),
    ];
    partitions.into_iter().find(|(prefix, _)| region.starts_with(prefix)).map_or("aws", |(_, partition)| partition)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_regions_name_tells_its_partition() {
        let of = ["eu-west-1", "us-gov-west-1", "cn-north-1", "us-isob-east-1", "us-iso-east-1", "us-east-1"];
        let expected = ["aws", "aws-us-gov", "aws-cn", "aws-iso-b", "aws-iso", "aws"];
        assert_eq!(of.map(partition), expected);
    }
}
