//! Faults of paths, handed to the line over its control socket.

use super::{Fault, FaultKind};
use crate::error::{LabError, Result};
use crate::line::control::{Client, ControlError};
use crate::line::fault::Scope;
use crate::line::stats::LineStats;
use crate::paths::RunDir;

pub(super) fn set(run: &RunDir, fault: &Fault) -> Result<()> {
    let FaultKind::Path {
        source,
        target,
        rule,
    } = &fault.kind
    else {
        return Ok(());
    };
    let scope = Scope::new(source.clone(), target.clone());
    client(run)?
        .set_fault(&fault.id, scope, *rule)
        .map_err(told)
}

/// A fault that the line does not know, because it was never set there, is cleared.
pub(super) fn clear(run: &RunDir, fault: &Fault) -> Result<()> {
    let mut client = client(run)?;
    if client
        .list()
        .map_err(told)?
        .iter()
        .any(|f| f.id == fault.id)
    {
        client.clear(&fault.id).map_err(told)?;
    }
    Ok(())
}

pub(crate) fn stats(run: &RunDir) -> Result<LineStats> {
    client(run)?.stats().map_err(told)
}

fn client(run: &RunDir) -> Result<Client> {
    Client::connect(&run.line_control()).map_err(told)
}

fn told(error: ControlError) -> LabError {
    let source = std::error::Error::source(&error)
        .map(|s| format!(": {s}"))
        .unwrap_or_default();
    LabError::Line(format!("{error}{source}"))
}
