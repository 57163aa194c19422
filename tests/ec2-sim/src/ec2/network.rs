//! EC2's network interfaces.

use std::collections::BTreeMap;

use super::describe::{Filters, listing};
use super::{ACCOUNT, SUBNET, VPC, dry_run, known};
use crate::core::Core;
use crate::error::ApiError;
use crate::interfaces::no_interface;
use crate::query::{Node, Params};
use crate::world::{Instance, Kept};

/// A network interface: one that was made by itself or that came with an instance.
struct Interface<'a> {
    id: String,
    addresses: &'a [String],
    user: Option<&'a Instance>,
}

impl Interface<'_> {
    fn status(&self) -> &'static str {
        if self.user.is_some() { "in-use" } else { "available" }
    }

    fn field(&self, zone: &str, name: &str) -> Option<Vec<String>> {
        Some(match name {
            "network-interface-id" => vec![self.id.clone()],
            "status" => vec![self.status().to_owned()],
            "availability-zone" => vec![zone.to_owned()],
            "private-ip-address" => self.addresses.first().into_iter().cloned().collect(),
            "addresses.private-ip-address" => self.addresses.to_vec(),
            "attachment.instance-id" => self.user.iter().map(|user| user.id.to_string()).collect(),
            _ => return None,
        })
    }

    fn node(&self, zone: &str) -> Node {
        let addresses = self.addresses.iter().enumerate();
        let addresses = addresses
            .map(|(place, address)| Node::new("item").with("privateIpAddress", address).with("primary", place == 0));
        let attachment = self.user.map(|user| {
            Node::new("attachment")
                .with("attachmentId", user.id.replace("i-", "eni-attach-"))
                .with("instanceId", &user.id)
                .with("instanceOwnerId", ACCOUNT)
                .with("deviceIndex", 0)
                .with("status", if user.state.is_ending() { "detaching" } else { "attached" })
                .with("deleteOnTermination", false)
        });
        Node::new("item")
            .with("networkInterfaceId", &self.id)
            .with("subnetId", SUBNET)
            .with("vpcId", VPC)
            .with("availabilityZone", self.user.map_or(zone, |user| &user.zone))
            .with("ownerId", ACCOUNT)
            .with("status", self.status())
            .with("privateIpAddress", self.addresses.first().map(String::as_str).unwrap_or_default())
            .children(attachment)
            .child(Node::new("privateIpAddressesSet").children(addresses))
            .child(Node::new("tagSet"))
    }
}

pub(super) fn describe_interfaces(core: &Core, params: &Params) -> Result<Vec<Node>, ApiError> {
    known(params, &["NetworkInterfaceId.*", "Filter.*", "MaxResults", "NextToken"])?;
    let filters = Filters::parse(params)?;
    dry_run(params)?;
    let world = core.world();
    let mut all: BTreeMap<String, Interface<'_>> = BTreeMap::new();
    for (id, made) in &world.interfaces {
        all.insert(id.clone(), Interface { id: id.clone(), addresses: &made.private_ips, user: None });
    }
    for instance in world.instances.values().map(Kept::get).filter(|instance| instance.holds_interface) {
        let (id, addresses) = (instance.interface(), &instance.spec.private_ips);
        all.insert(id.clone(), Interface { id, addresses, user: Some(instance) });
    }
    let wanted = params.list("NetworkInterfaceId");
    if let Some(missing) = wanted.iter().find(|id| !all.contains_key(**id)) {
        return Err(no_interface(missing));
    }
    let zone = &core.config.zone;
    let mut shown = Vec::new();
    for interface in all.values() {
        let named = wanted.is_empty() || wanted.contains(&interface.id.as_str());
        if filters.admit(|name| interface.field(zone, name))? && named {
            shown.push(interface.node(zone));
        }
    }
    let (shown, next) = params.page(shown, "MaxResults")?;
    Ok(listing("networkInterfaceSet", shown, next))
}
