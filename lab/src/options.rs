//! What a person can choose about a lab, and the signal that ends its building.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use mesh::Mesh;

use crate::error::{LabError, Result};
use crate::net::{OuterDf, Services};

/// One-way delay between two endpoints of the line, in both directions.
#[derive(Clone, Debug, PartialEq)]
pub struct PathDelay {
    pub a: String,
    pub b: String,
    pub delay: Duration,
}

/// How to bring a lab up.
#[derive(Clone, Debug)]
pub struct Options {
    pub name: String,
    pub mesh: Mesh,
    /// Network only: no agents, no services, no traffic.
    pub bare: bool,
    pub outer_df: OuterDf,
    pub services: Services,
    /// Overrides of the default delays.
    pub delays: Vec<PathDelay>,
    /// External clients and the cluster that they lie behind; the others have a bridge of their own in the fabric.
    pub behind: Vec<(String, String)>,
    /// A mounted bpffs for the agents' pins; `None` mounts one for this lab alone.
    pub bpffs: Option<PathBuf>,
    /// The `aggrik8s` binary, re-executed for the lab's own processes.
    pub program: PathBuf,
    /// The `aggrik8s-probe` binary.
    pub probe: Option<PathBuf>,
    /// How long to wait for readiness.
    pub deadline: Duration,
    pub cancel: Cancel,
}

/// Set by a signal handler; asked between the steps of a long operation.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicI32>);

impl Cancel {
    /// Asks for the end because of this signal.
    pub fn signal(&self, signal: i32) {
        self.0.store(signal, Ordering::SeqCst);
    }

    pub(crate) fn check(&self) -> Result<()> {
        match self.0.load(Ordering::SeqCst) {
            0 => Ok(()),
            signal => Err(LabError::Interrupted(signal)),
        }
    }
}
