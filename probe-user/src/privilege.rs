//! The running agent has no privilege: checked at its start, and closed for good with no-new-privs.

use caps::CapSet;
use nix::unistd::Uid;

#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    #[error(
        "the agent must not run with privileges: {0}\nhint: run it as uid 65532 without capabilities, or give --allow-privileged"
    )]
    Privileged(String),
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
