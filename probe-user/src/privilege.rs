//! The running agent has no privilege: checked at its start, and closed for good with no-new-privs. A holder gives its
//! own up.

use caps::{CapSet, Capability};
use nix::unistd::Uid;

#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    #[error(
        "the agent must not run with privileges: {0}\nhint: run it as uid 65532 without capabilities, or give --allow-privileged"
    )]
    Privileged(String),
    #[error("privileges were not given up: {0}")]
    Kept(String),
    #[error("cannot give up capabilities")]
    GiveUp(#[source] caps::errors::CapsError),
    #[error("cannot read our own capabilities")]
    Capabilities(#[source] caps::errors::CapsError),
    #[error("cannot give up new privileges")]
    NoNewPrivs(#[source] nix::errno::Errno),
}

/// What a uid and capability sets amount to; `None`: no privilege. Pure.
fn privileges(uid: u32, held: &[(&str, Vec<String>)]) -> Option<String> {
    let mut found = Vec::new();
    if uid == 0 {
        found.push("uid 0".to_owned());
    }
    for (set, names) in held {
        if !names.is_empty() {
            found.push(format!("{set} capabilities {}", names.join(", ")));
        }
    }
    (!found.is_empty()).then(|| found.join("; "))
}

fn held() -> Result<Vec<(&'static str, Vec<String>)>, PrivilegeError> {
    [
        ("effective", CapSet::Effective),
        ("permitted", CapSet::Permitted),
        ("inheritable", CapSet::Inheritable),
        ("ambient", CapSet::Ambient),
    ]
    .into_iter()
    .map(|(name, set)| {
        let capabilities = caps::read(None, set).map_err(PrivilegeError::Capabilities)?;
        let mut names: Vec<String> = capabilities.iter().map(ToString::to_string).collect();
        names.sort_unstable();
        Ok((name, names))
    })
    .collect()
}

/// Refuses privileges unless `allowed`; then returns what they are. Sets no-new-privs in any case.
pub fn enter(allowed: bool) -> Result<Option<String>, PrivilegeError> {
    nix::sys::prctl::set_no_new_privs().map_err(PrivilegeError::NoNewPrivs)?;
    let uid = Uid::effective().as_raw().min(Uid::current().as_raw());
    match privileges(uid, &held()?) {
        Some(found) if !allowed => Err(PrivilegeError::Privileged(found)),
        found => Ok(found),
    }
}

/// Gives up every capability for good. Returns what stays in the bounding set: only CAP_SETPCAP, which a holder does not
/// have, could take it out. It is out of reach all the same: a bounding set gives nothing by itself, and with
/// no-new-privs no program that is started gains anything.
pub fn give_up() -> Result<Vec<String>, PrivilegeError> {
    nix::sys::prctl::set_no_new_privs().map_err(PrivilegeError::NoNewPrivs)?;
    let read = |set| caps::read(None, set).map_err(PrivilegeError::Capabilities);
    if read(CapSet::Effective)?.contains(&Capability::CAP_SETPCAP) {
        for capability in read(CapSet::Bounding)? {
            caps::drop(None, CapSet::Bounding, capability).map_err(PrivilegeError::GiveUp)?;
        }
    }
    for set in [CapSet::Ambient, CapSet::Inheritable, CapSet::Permitted] {
        caps::clear(None, set).map_err(PrivilegeError::GiveUp)?;
    }
    // Whatever the user is: uid 0 without capabilities is not a privilege here.
    if let Some(found) = privileges(u32::MAX, &held()?) {
        return Err(PrivilegeError::Kept(found));
    }
    let mut left: Vec<String> = read(CapSet::Bounding)?
        .iter()
        .map(ToString::to_string)
        .collect();
    left.sort_unstable();
    Ok(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_privilege_is_named() {
        assert_eq!(privileges(65_532, &[("effective", vec![])]), None);
        assert_eq!(privileges(0, &[]), Some("uid 0".into()));
        assert_eq!(
            privileges(
                65_532,
                &[("effective", vec![]), ("permitted", vec!["CAP_BPF".into()])]
            ),
            Some("permitted capabilities CAP_BPF".into())
        );
    }
}
