//! The endpoint VM's links: one task each, which names the link, brings it up and keeps its address.

mod dhcp;
mod link;
mod plan;
mod resolver;

pub(crate) use link::keep;
pub(crate) use plan::plan;
pub(crate) use resolver::Resolver;
