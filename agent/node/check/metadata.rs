//! The instance metadata service, and whether this instance is the configured node.

use std::net::IpAddr;

use super::{Finding, ask};
use crate::aws::imds::{IdentityDocument, Imds};
use crate::config::Config;
use crate::failure::Failure;

/// Checks the metadata service, and returns this instance's identity.
pub(super) async fn check(imds: &Imds) -> (Vec<Finding>, Option<IdentityDocument>) {
    let name = "instance metadata";
    match ask(async || imds.identity().await).await {
        Ok(document) => {
            let (id, zone, account) = (&document.instance_id, &document.availability_zone, &document.account_id);
            let seen = format!("{id} in {zone} of {}, account {account}, by IMDSv2", document.region);
            (vec![Finding::ok(name, seen)], Some(document))
        }
        Err(failure) => (vec![Finding::failed(name, &failure)], None),
    }
}

/// Whether `node.ip` is an address of this instance.
pub(super) async fn address(imds: &Imds, document: &IdentityDocument, config: Option<&Config>) -> Option<Finding> {
    let name = "node address";
    let ip = config?.node.ip;
    let has = async || -> Result<Vec<IpAddr>, Failure> {
        if document.private_ip == Some(ip) { Ok(vec![ip]) } else { imds.private_addresses().await }
    };
    Some(match ask(has).await {
        Ok(addresses) if addresses.contains(&ip) => {
            Finding::ok(name, format!("{ip} is one of {}", document.instance_id))
        }
        Ok(addresses) => {
            let addresses: Vec<_> = addresses.iter().map(IpAddr::to_string).collect();
            let (id, all) = (&document.instance_id, addresses.join(", "));
            Finding::attention(
                name,
                format!("node.ip {ip} is not an address of {id}, which has {all}: a run would refuse (exit 6)"),
                "attach the node's network interface to the instance, or correct node.ip",
            )
        }
        Err(failure) => Finding::failed(name, &failure),
    })
}
