//! Connects once and ends: whether a process at this place, cgroup included, reaches an address.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::{Arguments, RoleError};

const ROLE: &str = "reach";

/// `--to ADDRESS:PORT`, `--within-ms N`.
pub(super) fn main(args: &[String]) -> Result<(), RoleError> {
    let args = Arguments::parse(ROLE, args, &["to", "within-ms"])?;
    let to: SocketAddr = args.one("to")?;
    let patience = Duration::from_millis(args.one("within-ms")?);
    TcpStream::connect_timeout(&to, patience)
        .map(drop)
        .map_err(|source| RoleError::Io {
            role: ROLE,
            what: format!("connect to {to}"),
            source,
        })
}
