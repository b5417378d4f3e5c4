//! Services: separate processes that are started again whenever they end.

mod policy;
mod runner;
mod words;

pub(crate) use runner::{PERSONALITY, Runner, Service};
