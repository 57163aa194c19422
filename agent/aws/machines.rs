//! EC2 as an operator uses it: instances, and what a new one needs.

use std::collections::{BTreeMap, BTreeSet};

use aws_config::retry::RetryConfig;
use aws_sdk_ec2::Config;
use aws_sdk_ec2::config::Builder;
use aws_sdk_ec2::types::{AttachmentStatus, Filter, Instance, LocationType, ResourceType, Tag, TagSpecification};

use super::ec2::{Ec2, InstanceStateName};
use super::templates::decoded;
use crate::failure::{Code, Failure};

/// An instance as EC2 describes it. The description lags behind, and can step backwards in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// `i-…`
    pub id: String,
    /// `running` also while its group terminates it and waits for its hooks.
    pub state: InstanceStateName,
    /// `ami-…`; another one than at the launch after a root volume replacement.
    pub image_id: String,
    /// `m6i.large`
    pub instance_type: String,
    /// `eu-west-1a`
    pub zone: String,
    /// The primary private IPv4 address.
    pub ip: Option<String>,
    /// The primary network interface.
    pub interface: Option<String>,
    /// When it was started, in seconds since the epoch.
    pub launched: i64,
    /// Its volumes without the root device and those that end with it.
    pub volumes: Vec<DataVolume>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
}

/// A volume that outlives its instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataVolume {
    /// `vol-…`
    pub id: String,
    /// When EC2 began to attach it, in seconds since the epoch.
    pub attached: i64,
    /// Whether the attachment is complete, and has not begun to end.
    pub is_attached: bool,
}

/// How a network interface is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceUse {
    /// `available`, `in-use`, …
    pub status: String,
    /// The instance that it is attached to.
    pub instance_id: Option<String>,
    /// Its primary private IPv4 address.
    pub ip: Option<String>,
}

/// How many values one filter may have.
const MOST_VALUES: usize = 200;

impl Ec2 {
    /// These instances, by id. One that EC2 does not know any more is missing from the answer.
    pub async fn machines(&self, ids: &[String]) -> Result<BTreeMap<String, Machine>, Failure> {
        let mut machines = BTreeMap::new();
        for ids in ids.chunks(MOST_VALUES) {
            let mut next = None;
            loop {
                // By filter: an unknown id fails no call.
                let call = self.client.describe_instances().filters(filter("instance-id", ids)).set_next_token(next);
                let answer = call.send().await;
                let answer = answer.map_err(|error| self.caller.read("ec2:DescribeInstances", &error).failure)?;
                let instances = answer.reservations().iter().flat_map(aws_sdk_ec2::types::Reservation::instances);
                machines.extend(instances.map(machine).map(|machine| (machine.id.clone(), machine)));
                next = answer.next_token().filter(|token| !token.is_empty()).map(str::to_owned);
                if next.is_none() {
                    break;
                }
            }
        }
        Ok(machines)
    }

    /// The states of these images, by id: `available`, `pending`, …; one that does not exist, or not for this account, is missing.
    pub async fn images(&self, ids: &BTreeSet<String>) -> Result<BTreeMap<String, String>, Failure> {
        let ids: Vec<&String> = ids.iter().collect();
        let mut states = BTreeMap::new();
        for ids in ids.chunks(MOST_VALUES) {
            // Instances launch from a deprecated image as from any other; of a disabled one EC2 tells that it is. By filter: an
            // unknown id fails no call.
            let call = self.client.describe_images().include_deprecated(true).include_disabled(true);
            let mut pages = call.filters(filter("image-id", ids)).into_paginator().send();
            while let Some(page) = pages.next().await {
                let page = page.map_err(|error| self.caller.read("ec2:DescribeImages", &error).failure)?;
                let seen = page.images().iter();
                states
                    .extend(seen.filter_map(|image| Some((image.image_id()?.to_owned(), image.state()?.to_string()))));
            }
        }
        Ok(states)
    }

    /// Which of these instance types EC2 offers in which of these availability zones.
    pub async fn offered(
        &self,
        types: &BTreeSet<String>,
        zones: &BTreeSet<String>,
    ) -> Result<BTreeSet<(String, String)>, Failure> {
        let (types, zones): (Vec<&String>, Vec<&String>) = (types.iter().collect(), zones.iter().collect());
        let mut offered = BTreeSet::new();
        for types in types.chunks(MOST_VALUES) {
            let call = self.client.describe_instance_type_offerings().location_type(LocationType::AvailabilityZone);
            let call = call.filters(filter("instance-type", types)).filters(filter("location", &zones));
            let mut pages = call.into_paginator().send();
            while let Some(page) = pages.next().await {
                let page =
                    page.map_err(|error| self.caller.read("ec2:DescribeInstanceTypeOfferings", &error).failure)?;
                let seen = page.instance_type_offerings().iter();
                offered.extend(
                    seen.filter_map(|one| Some((one.instance_type()?.to_string(), one.location()?.to_owned()))),
                );
            }
        }
        Ok(offered)
    }

    /// How a network interface is used; `None` where it does not exist.
    pub async fn interface(&self, id: &str) -> Result<Option<InterfaceUse>, Failure> {
        let answer =
            self.client.describe_network_interfaces().filters(filter("network-interface-id", &[id])).send().await;
        let answer = answer.map_err(|error| self.caller.read("ec2:DescribeNetworkInterfaces", &error).failure)?;
        Ok(answer.network_interfaces().first().map(|interface| InterfaceUse {
            status: interface.status().map_or_else(String::new, ToString::to_string),
            instance_id: interface.attachment().and_then(|attachment| attachment.instance_id()).map(str::to_owned),
            ip: interface.private_ip_address().map(str::to_owned),
        }))
    }

    /// Begins a snapshot of a volume, with its tags, and returns its id. Sent once.
    pub async fn snapshot(&self, volume: &str, description: &str, tags: &[(&str, &str)]) -> Result<String, Failure> {
        let tags = tags.iter().map(|(key, value)| Tag::builder().key(*key).value(*value).build()).collect();
        let tags = TagSpecification::builder().resource_type(ResourceType::Snapshot).set_tags(Some(tags)).build();
        let call = self.client.create_snapshot().volume_id(volume).description(description).tag_specifications(tags);
        let answer = call.customize().config_override(once()).send().await;
        let answer = answer.map_err(|error| {
            let error = self.caller.read("ec2:CreateSnapshot", &error);
            match error.failure.code {
                Code::AccessDenied => error.about(format_args!("volume {volume}")).remedy(
                    "allow ec2:CreateSnapshot, and ec2:CreateTags on snapshots, to these credentials (whose they are: aws sts \
                     get-caller-identity)",
                ),
                _ => error.about(format_args!("volume {volume}")),
            }
        })?;
        Ok(answer.snapshot_id.unwrap_or_default())
    }

    /// The instance's console output as EC2 has stored it, up to 64 KiB; `None` without any, or without the instance.
    pub async fn console(&self, instance_id: &str) -> Result<Option<String>, Failure> {
        let answer = self.client.get_console_output().instance_id(instance_id).latest(false).send().await;
        match answer.map_err(|error| self.caller.read("ec2:GetConsoleOutput", &error)) {
            Ok(answer) => {
                let output = answer.output.filter(|output| !output.is_empty()).map(decoded);
                Ok(output.map(|output| String::from_utf8_lossy(&output).into_owned()))
            }
            Err(error) if error.is("InvalidInstanceID.NotFound") => Ok(None),
            Err(error) => Err(error.about(format_args!("instance {instance_id}"))),
        }
    }
}

/// For a request that must not be repeated unseen, as in `aws::autoscaling`.
fn once() -> Builder {
    Config::builder().retry_config(RetryConfig::disabled())
}

fn filter(name: &str, values: &[impl AsRef<str>]) -> Filter {
    let values = values.iter().map(|value| value.as_ref().to_owned()).collect();
    Filter::builder().name(name).set_values(Some(values)).build()
}

fn machine(instance: &Instance) -> Machine {
    let text = |value: Option<&str>| value.unwrap_or_default().to_owned();
    let is_primary = |index: Option<i32>| index == Some(0);
    let mut interfaces = instance.network_interfaces().iter();
    let primary = interfaces.find(|one| {
        is_primary(one.attachment().and_then(aws_sdk_ec2::types::InstanceNetworkInterfaceAttachment::device_index))
    });
    Machine {
        id: text(instance.instance_id()),
        state: instance
            .state()
            .and_then(|state| state.name())
            .cloned()
            .unwrap_or_else(|| InstanceStateName::from("unknown")),
        image_id: text(instance.image_id()),
        instance_type: instance.instance_type().map_or_else(String::new, ToString::to_string),
        zone: text(instance.placement().and_then(|placement| placement.availability_zone())),
        ip: instance.private_ip_address().filter(|ip| !ip.is_empty()).map(str::to_owned),
        interface: primary.and_then(|interface| interface.network_interface_id()).map(str::to_owned),
        launched: instance.launch_time().map_or(0, aws_smithy_types::DateTime::secs),
        volumes: volumes(instance),
        tags: instance.tags().iter().map(|tag| (text(tag.key()), text(tag.value()))).collect(),
    }
}

fn volumes(instance: &Instance) -> Vec<DataVolume> {
    let data =
        instance.block_device_mappings().iter().filter(|device| device.device_name() != instance.root_device_name());
    let data = data.filter_map(|device| device.ebs()).filter(|volume| volume.delete_on_termination() != Some(true));
    data.map(|volume| DataVolume {
        id: volume.volume_id().unwrap_or_default().to_owned(),
        attached: volume.attach_time().map_or(0, aws_smithy_types::DateTime::secs),
        is_attached: volume.status() == Some(&AttachmentStatus::Attached),
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use aws_sdk_ec2::types::{EbsInstanceBlockDevice, InstanceBlockDeviceMapping};
    use aws_smithy_types::DateTime;

    use super::*;

    #[test]
    fn the_root_device_and_what_ends_with_the_instance_are_no_data_volumes() {
        let device = |name: &str, volume: &str, ends: bool, status: AttachmentStatus| {
            let ebs = EbsInstanceBlockDevice::builder().volume_id(volume).delete_on_termination(ends).status(status);
            let ebs = ebs.attach_time(DateTime::from_secs(7)).build();
            InstanceBlockDeviceMapping::builder().device_name(name).ebs(ebs).build()
        };
        let instance = Instance::builder()
            .root_device_name("/dev/xvda")
            .block_device_mappings(device("/dev/xvda", "vol-root", false, AttachmentStatus::Attached))
            .block_device_mappings(device("/dev/xvdb", "vol-scratch", true, AttachmentStatus::Attached))
            .block_device_mappings(device("/dev/xvdc", "vol-data", false, AttachmentStatus::Attached))
            .block_device_mappings(device("/dev/xvdd", "vol-going", false, AttachmentStatus::Detaching))
            .build();
        let data = |id: &str, is_attached| DataVolume { id: id.to_owned(), attached: 7, is_attached };
        assert_eq!(machine(&instance).volumes, [data("vol-data", true), data("vol-going", false)]);
    }
}
