//! `identity`: this instance, and the node that it is to be.

use std::net::IpAddr;
use std::time::Duration;

use crate::aws::autoscaling::State;
use crate::aws::imds::{IdentityDocument, Imds};
use crate::config;
use crate::failure::{Code, Failure};
use crate::lifecycle::{Launch, Purpose};
use crate::runner::{Header, Observed, Step};
use crate::sequence::StepName;

/// Reads the instance metadata.
pub struct FindInstance<'a> {
    pub(crate) imds: &'a Imds,
    pub(crate) deadline: Duration,
}

impl Step for FindInstance<'_> {
    type Output = IdentityDocument;

    fn header(&self) -> Header<'_> {
        Header {
            observes_only: true,
            prepares: Some("instance known"),
            ..Header::of(StepName::Identity, self.deadline)
        }
    }

    async fn observe(&self) -> Result<Observed<IdentityDocument>, Failure> {
        Ok(Observed::Done(self.imds.identity().await?))
    }
}

/// Fails if this instance does not have the node's address, because the wrong node must never mount the data, or if the
/// instance is being terminated.
pub struct Identify<'a> {
    pub(crate) imds: &'a Imds,
    /// This instance, and whether it is still wanted.
    pub(crate) launch: &'a Launch<'a>,
    pub(crate) config: &'a config::Node,
    pub(crate) deadline: Duration,
}

/// What this instance is to be.
#[derive(Clone, Debug)]
pub enum Identity {
    /// A node of the cluster.
    Node(Node),
    /// An instance in a warm pool, in this state: nothing is touched, above all not the volume.
    Pooled(State),
}

/// A node of the cluster. Later steps take its id and address from here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its id, the hooks' first argument.
    pub(crate) id: String,
    /// Its fixed address, the hooks' second argument.
    pub(crate) ip: IpAddr,
}

impl Step for Identify<'_> {
    type Output = Identity;

    fn header(&self) -> Header<'_> {
        Header { observes_only: true, ..Header::of(StepName::Identity, self.deadline) }
    }

    async fn observe(&self) -> Result<Observed<Identity>, Failure> {
        let (ip, instance) = (self.config.ip, self.launch.instance);
        if instance.private_ip != Some(ip) {
            let addresses = self.imds.private_addresses().await?;
            if !addresses.contains(&ip) {
                return Err(wrong_node(ip, &instance.instance_id, &addresses));
            }
        }
        Ok(Observed::Done(match self.launch.purpose().await? {
            Purpose::Node => Identity::Node(Node { id: self.config.id.clone(), ip }),
            Purpose::WarmPool(state) => Identity::Pooled(state),
        }))
    }
}

fn wrong_node(ip: IpAddr, instance_id: &str, addresses: &[IpAddr]) -> Failure {
    let addresses: Vec<_> = addresses.iter().map(IpAddr::to_string).collect();
    let text = format!("node.ip {ip} is not an address of {instance_id}, which has {}", addresses.join(", "));
    Failure::new(Code::WrongNode, text).remedy(format!(
        "this instance must not take that node's data: attach the node's network interface (aws ec2 attach-network-interface \
         --network-interface-id ENI --instance-id {instance_id} --device-index 1), or correct node.ip; then: node-agent retry"
    ))
}
