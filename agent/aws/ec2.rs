//! EC2: volumes and their attachments.

use std::collections::BTreeMap;
use std::fmt;

use aws_config::SdkConfig;
use aws_sdk_ec2::types::{Filter, Instance, Reservation, Tag, Volume};
pub use aws_sdk_ec2::types::{InstanceStateName, VolumeAttachmentState, VolumeState};
use aws_sdk_ec2::{Client, Config};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

use super::error::Caller;
use crate::failure::{Code, Failure};

/// The keys of the agent's tags.
pub mod tag {
    /// All of them, as a pattern for IAM.
    pub const ALL: &str = "node-agent:*";
    /// On an instance: why the node failed.
    pub const STATUS: &str = "node-agent:status";
    /// On a volume: a format has begun. Without [`FORMATTED`] it shows people an unfinished format.
    pub const FORMATTING: &str = "node-agent:formatting";
    /// On a volume: a format has completed. A disk that later looks blank is then not formatted again.
    pub const FORMATTED: &str = "node-agent:formatted";
}

/// The EC2 client.
pub struct Ec2 {
    pub(super) client: Client,
    pub(super) caller: Caller,
}

/// A volume as EC2 describes it. The description is eventually consistent and can step backwards in time.
#[derive(Clone, Debug)]
pub struct VolumeView {
    /// `available`, `in-use`, …
    pub state: VolumeState,
    pub(crate) zone: String,
    pub(crate) size_gib: u64,
    /// The snapshot from which the volume was created.
    pub snapshot_id: Option<String>,
    /// Whether several instances can attach the volume at once.
    pub multi_attach: bool,
    /// The KMS key of an encrypted volume, also where that is the AWS managed key `aws/ebs`.
    pub kms_key_id: Option<String>,
    pub(crate) tags: BTreeMap<String, String>,
    /// The attachments, in no particular order.
    pub attachments: Vec<Attachment>,
}

/// One attachment of a volume.
#[derive(Clone, Debug)]
pub struct Attachment {
    /// `i-…`
    pub instance_id: String,
    /// The device name that was requested.
    pub device: String,
    /// `attaching`, `attached`, `detaching`, `busy`, …
    pub state: VolumeAttachmentState,
}

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {} as {}", self.state, self.instance_id, self.device)
    }
}

/// The outcome of a request to attach.
pub enum AttachAnswer {
    /// EC2 has begun to attach.
    Accepted,
    /// The volume is attached already, here or elsewhere; its description tells where.
    HeldAlready,
    /// The device name is in use on this instance.
    DeviceNameTaken,
}

impl Ec2 {
    pub(super) fn new(config: &SdkConfig) -> Self {
        Ec2 { client: Client::new(config), caller: Caller::Node }
    }

    /// An operator's client.
    pub(super) fn of_operator(config: Config) -> Self {
        Ec2 { client: Client::from_conf(config), caller: Caller::Operator }
    }

    /// Describes one volume.
    pub async fn volume(&self, id: &str) -> Result<VolumeView, Failure> {
        let answer = self.client.describe_volumes().volume_ids(id).send().await;
        let answer = answer.map_err(|error| {
            let error = self.caller.read("ec2:DescribeVolumes", &error);
            if error.is("InvalidVolume.NotFound") {
                self.caller.advise(not_found(id))
            } else {
                error.about(format_args!("volume {id}"))
            }
        })?;
        let volume = answer.volumes().iter().find(|volume| volume.volume_id() == Some(id));
        volume.map(view).ok_or_else(|| self.caller.advise(not_found(id)))
    }

    /// The state of another instance; `unknown` if the instance is gone or IAM denies the call.
    pub async fn instance_state(&self, id: &str) -> Result<InstanceStateName, Failure> {
        let unknown = InstanceStateName::from("unknown");
        let answer = self.client.describe_instances().instance_ids(id).send().await;
        match answer.map_err(|error| self.caller.read("ec2:DescribeInstances", &error)) {
            Ok(answer) => Ok(answer
                .reservations()
                .iter()
                .flat_map(Reservation::instances)
                .find(|instance| instance.instance_id() == Some(id))
                .and_then(|instance| instance.state()?.name())
                .map_or(unknown, Clone::clone)),
            Err(error) if error.is("InvalidInstanceID.NotFound") => Ok(unknown),
            Err(error) if error.failure.code == Code::AccessDenied => {
                tracing::debug!("the state of {id} cannot be read: {}", error.failure);
                Ok(unknown)
            }
            Err(error) => Err(error.failure),
        }
    }

    /// Sets tags on a volume or an instance. False where IAM denies it: tags help, but a node comes up without them.
    pub async fn tag(&self, resource: &str, tags: &[(&str, &str)]) -> Result<bool, Failure> {
        let tags = tags.iter().map(|(key, value)| Tag::builder().key(*key).value(*value).build());
        let answer = self.client.create_tags().resources(resource).set_tags(Some(tags.collect())).send().await;
        match answer.map_err(|error| self.caller.read("ec2:CreateTags", &error)) {
            Ok(_) => Ok(true),
            Err(error) if error.failure.code == Code::AccessDenied => Ok(false),
            Err(error) => Err(error.about(format_args!("{resource}"))),
        }
    }

    /// Tries a dry run of `DescribeVolumes`; fails with `AccessDenied` where IAM denies it, as do the others below.
    pub async fn try_describe_volumes(&self) -> Result<(), Failure> {
        dry_run("ec2:DescribeVolumes", self.client.describe_volumes().dry_run(true).send().await)
    }

    /// Tries a dry run of `DescribeInstances`.
    pub async fn try_describe_instances(&self) -> Result<(), Failure> {
        dry_run("ec2:DescribeInstances", self.client.describe_instances().dry_run(true).send().await)
    }

    /// Tries a dry run of `AttachVolume` for this volume and instance.
    pub async fn try_attach(&self, volume: &str, instance: &str, device: &str) -> Result<(), Failure> {
        let call = self.client.attach_volume().volume_id(volume).instance_id(instance).device(device);
        dry_run("ec2:AttachVolume", call.dry_run(true).send().await)
    }

    /// Tries a dry run of `DetachVolume` for this volume and instance.
    pub async fn try_detach(&self, volume: &str, instance: &str) -> Result<(), Failure> {
        let call = self.client.detach_volume().volume_id(volume).instance_id(instance);
        dry_run("ec2:DetachVolume", call.dry_run(true).send().await)
    }

    /// Tries a dry run of `CreateTags` with this key.
    pub async fn try_tag(&self, resource: &str, key: &str) -> Result<(), Failure> {
        let tag = Tag::builder().key(key).value("dry run").build();
        dry_run("ec2:CreateTags", self.client.create_tags().resources(resource).tags(tag).dry_run(true).send().await)
    }

    /// The value of one tag of each of these instances, where it is set. Instances that are gone have none.
    pub async fn instance_tags(&self, ids: &[&str], key: &str) -> Result<BTreeMap<String, String>, Failure> {
        // By filter: an id that EC2 does not know any more fails no call.
        let of = |name: &str, values: &[&str]| {
            let values = values.iter().map(|value| (*value).to_owned()).collect();
            Filter::builder().name(name).set_values(Some(values)).build()
        };
        let call = self.client.describe_instances().filters(of("instance-id", ids)).filters(of("tag-key", &[key]));
        let answer = call.send().await;
        let answer = answer.map_err(|error| self.caller.read("ec2:DescribeInstances", &error).failure)?;
        let instances = answer.reservations().iter().flat_map(Reservation::instances);
        let tag = |instance: &Instance| {
            let tag = instance.tags().iter().find(|tag| tag.key() == Some(key))?;
            Some((instance.instance_id()?.to_owned(), tag.value()?.to_owned()))
        };
        Ok(instances.filter_map(tag).collect())
    }

    /// Begins to detach a volume from this instance, never by force. True where it is attached no more.
    pub async fn detach(&self, volume: &str, instance: &str) -> Result<bool, Failure> {
        let answer = self.client.detach_volume().volume_id(volume).instance_id(instance).send().await;
        let Err(error) = answer else { return Ok(false) };
        let error = self.caller.read("ec2:DetachVolume", &error);
        // `IncorrectState`: the volume is `available`; `InvalidAttachment.NotFound`: it is attached elsewhere.
        let is_free =
            error.is("InvalidAttachment.NotFound") || error.is("IncorrectState") && error.message.contains("available");
        if is_free { Ok(true) } else { Err(error.about(format_args!("volume {volume}"))) }
    }

    /// Begins to attach a volume.
    pub async fn attach(&self, volume: &str, instance: &str, device: &str) -> Result<AttachAnswer, Failure> {
        let answer = self.client.attach_volume().volume_id(volume).instance_id(instance).device(device).send().await;
        let error = match answer {
            Ok(_) => return Ok(AttachAnswer::Accepted),
            Err(error) => self.caller.read("ec2:AttachVolume", &error),
        };
        let said = format!("attaching {volume} to {instance} as {device}: {}", error.message);
        // The codes: docs/facts.md, "Attaching a volume".
        match error.code.as_deref().unwrap_or_default() {
            "VolumeInUse" => Ok(AttachAnswer::HeldAlready),
            "InvalidDevice.InUse" => Ok(AttachAnswer::DeviceNameTaken),
            "InvalidParameterValue" if error.message.contains("already in use") => Ok(AttachAnswer::DeviceNameTaken),
            "IncorrectState" => Err(Failure::new(Code::VolumeInTransit, said)),
            "InvalidVolume.NotFound" => Err(not_found(volume)),
            "InvalidInstanceID.NotFound" => Err(Failure::new(Code::InstanceNotFound, said)),
            "InvalidVolume.ZoneMismatch" | "InvalidVolumeID.ZoneMismatch" => {
                Err(Failure::new(Code::ZoneMismatch, said))
            }
            "AttachmentLimitExceeded" => Err(Failure::new(Code::AttachmentLimit, said)),
            "EncryptedVolumesNotSupported" => Err(Failure::new(Code::EncryptionRefused, said)
                .remedy("use an instance type that supports encrypted volumes: every current one does")),
            code if code == "CustomerKeyHasBeenRevoked" || code.contains("KMSKey") => {
                // EC2's answer does not name the key.
                let key = self.volume(volume).await.ok().and_then(|view| view.kms_key_id);
                Err(key_refused(&said, key.as_deref().unwrap_or("KEY")))
            }
            _ => Err(error.about(format_args!("volume {volume}"))),
        }
    }
}

/// The failure of a volume whose KMS key EC2 cannot use.
pub fn key_refused(said: &str, key: &str) -> Failure {
    Failure::new(Code::EncryptionRefused, format!("{said}; its key is {key}")).remedy(format!(
        "see that the key is enabled and not pending deletion (aws kms describe-key --key-id {key}); allow the instance's role, in \
         its policy and in the key's own, kms:CreateGrant (where kms:GrantIsForAWSResource is true), kms:Decrypt, \
         kms:DescribeKey, kms:GenerateDataKeyWithoutPlaintext and kms:ReEncrypt*; then: node-agent retry"
    ))
}

/// EC2 answers a dry run with an error, also where the call would be allowed.
fn dry_run<T, E>(action: &str, answer: Result<T, SdkError<E, HttpResponse>>) -> Result<(), Failure>
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    match answer.map_err(|error| Caller::Node.read(action, &error)) {
        Err(error) if !error.is("DryRunOperation") => Err(error.failure),
        _ => Ok(()),
    }
}

fn not_found(volume: &str) -> Failure {
    Failure::new(Code::VolumeNotFound, format!("volume {volume} does not exist in this account and region"))
}

fn view(volume: &Volume) -> VolumeView {
    let text = |value: Option<&str>| value.unwrap_or_default().to_owned();
    VolumeView {
        state: volume.state().map_or_else(|| VolumeState::from(""), Clone::clone),
        zone: text(volume.availability_zone()),
        size_gib: volume.size().and_then(|size| u64::try_from(size).ok()).unwrap_or_default(),
        snapshot_id: volume.snapshot_id().filter(|id| !id.is_empty()).map(str::to_owned),
        multi_attach: volume.multi_attach_enabled().unwrap_or_default(),
        kms_key_id: volume.kms_key_id().filter(|id| !id.is_empty()).map(str::to_owned),
        tags: volume.tags().iter().map(|tag| (text(tag.key()), text(tag.value()))).collect(),
        attachments: volume
            .attachments()
            .iter()
            .map(|attachment| Attachment {
                instance_id: text(attachment.instance_id()),
                device: text(attachment.device()),
                state: attachment.state().map_or_else(|| VolumeAttachmentState::from(""), Clone::clone),
            })
            .collect(),
    }
}
