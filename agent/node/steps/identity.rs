//! `identity`: this machine is the configured node.

use std::net::IpAddr;
use std::time::Duration;

use crate::aws::imds::Imds;
use crate::failure::{Code, Failure};
use crate::lifecycle::{Launch, Node, Standing};
use crate::runner::{Header, Observed, Step};
use crate::sequence::StepName;

/// Reads the instance metadata.
#[derive(Debug)]
pub struct Identify<'a> {
    /// The metadata service.
    pub imds: &'a Imds,
    /// `timeouts.aws`
    pub deadline: Duration,
}

impl Step for Identify<'_> {
    type Output = Node;

    fn header(&self) -> Header<'_> {
        Header { only_looks: true, prepares: Some("instance known"), ..Header::of(StepName::Identity, self.deadline) }
    }

    async fn observe(&self) -> Result<Observed<Node>, Failure> {
        Ok(Observed::Done(self.imds.identity().await?.into()))
    }
}

/// Refuses if the node's address is none of this instance's, because the wrong node must never mount the data, and if the
/// instance is being terminated. Tells what the instance is there for.
#[derive(Debug)]
pub struct RightNode<'a> {
    /// The metadata service.
    pub imds: &'a Imds,
    /// Whether this instance is still wanted.
    pub launch: &'a Launch<'a>,
    /// This instance.
    pub node: &'a Node,
    /// `node.ip`
    pub ip: IpAddr,
    /// `timeouts.aws`
    pub deadline: Duration,
}

impl Step for RightNode<'_> {
    type Output = Standing;

    fn header(&self) -> Header<'_> {
        Header { only_looks: true, ..Header::of(StepName::Identity, self.deadline) }
    }

    async fn observe(&self) -> Result<Observed<Standing>, Failure> {
        if self.node.primary_ip != Some(self.ip) {
            let addresses = self.imds.private_addresses().await?;
            if !addresses.contains(&self.ip) {
                let addresses: Vec<_> = addresses.iter().map(IpAddr::to_string).collect();
                let text = format!(
                    "node.ip {} is no address of {}, which has {}",
                    self.ip,
                    self.node.instance_id,
                    addresses.join(", ")
                );
                return Err(Failure::new(Code::WrongNode, text).remedy(format!(
                    "this instance must not take that node's data: attach the node's network interface (aws ec2 \
                     attach-network-interface --network-interface-id ENI --instance-id {} --device-index 1), or correct \
                     node.ip; then: node-agent retry",
                    self.node.instance_id
                )));
            }
        }
        self.launch.standing().await.map(Observed::Done)
    }
}
