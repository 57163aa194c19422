//! IAM: whether the role allows the actions of a run, and the statement that would allow them.
//!
//! The table of actions in docs/operations.md says which are required and what the others are for.

use futures_util::future::join_all;
use serde_json::{Map, Value, json};
use tokio::join;

use super::services::{Reachability, sources};
use super::{Context, Finding, ask};
use crate::aws::ec2::{VolumeView, tag};
use crate::config::{self, Source};
use crate::failure::{Code, Failure};

/// One finding per action.
pub(super) async fn check(context: &Context<'_>) -> Vec<Finding> {
    let (ec2, autoscaling, s3) = join!(ec2(context), autoscaling(context), s3(context));
    [ec2, autoscaling, s3].concat()
}

/// The actions that volumes need.
async fn ec2(context: &Context<'_>) -> Vec<Finding> {
    let (volumes, ec2, reachability) = (&context.config.volumes, &context.services.ec2, &context.reachable.ec2);
    if volumes.is_empty() {
        return Vec::new();
    }
    let instance = &context.instance.instance_id;
    let arns = Arns(context);
    let these: Vec<String> = volumes.iter().map(|volume| arns.volume(volume.id.as_str())).collect();
    let mut tagged: Vec<_> = volumes.iter().map(|volume| (volume.id.as_str(), tag::FORMATTED)).collect();
    tagged.push((instance, tag::STATUS));
    let (describe, attach, instances, tags) = join!(
        attempt(reachability, async || ec2.try_describe_volumes().await),
        each(volumes.iter().map(|volume| attach(context, reachability, volume))),
        attempt(reachability, async || ec2.try_describe_instances().await),
        each(tagged.iter().map(|(resource, key)| attempt(reachability, async || ec2.try_tag(resource, key).await))),
    );
    let our_tags = Map::from_iter([("ForAllValues:StringLike".to_owned(), json!({ "aws:TagKeys": tag::ALL }))]);
    vec![
        finding("ec2:DescribeVolumes", describe, None, &allow("ec2:DescribeVolumes", &json!("*"))),
        finding("ec2:AttachVolume", attach, None, &arns.on_both("ec2:AttachVolume", &these, &Map::new())),
        finding(
            "ec2:DescribeInstances",
            instances,
            Some("optional; without it the state of an instance that holds the volume is not shown"),
            &allow("ec2:DescribeInstances", &json!("*")),
        ),
        finding(
            "ec2:CreateTags",
            tags,
            Some(
                "optional; without it only this root disk records that a volume was formatted, and no tag of the instance \
                 shows why a node failed",
            ),
            &arns.on_both("ec2:CreateTags", &these, &our_tags),
        ),
    ]
}

/// EC2's dry run fails for any volume in use. If the volume is attached here, no attachment is needed.
async fn attach(context: &Context<'_>, reachability: &Reachability, want: &config::Volume) -> Answer {
    let (ec2, instance) = (&context.services.ec2, &context.instance.instance_id);
    let answer =
        attempt(reachability, async || ec2.try_attach(want.id.as_str(), instance, &want.device_name).await).await;
    if !matches!(&answer, Answer::Failed(failure) if failure.code == Code::ApiRefused) {
        return answer;
    }
    let view = ask(async || ec2.volume(want.id.as_str()).await).await;
    let here = |view: &VolumeView| view.attachments.iter().any(|attachment| attachment.instance_id == *instance);
    if view.is_ok_and(|view| here(&view)) { Answer::Needless } else { answer }
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

    fn volume(&self, id: &str) -> String {
        self.of("ec2", &format!("volume/{id}"))
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
        json!([with_condition(allow(action, &json!(volumes)), condition.clone()), with_condition(instances, of_group)])
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
