//! What the lab's own processes do: `aggrik8s lab-role ROLE …` ends here.

mod counters;
mod dns;
mod drone;
mod echo;
mod http;
mod ndvi_server;
mod reach;
mod resolve;
mod starve;

use std::net::SocketAddr;

/// A role could not do its work, or was started with arguments that it does not know.
#[derive(Debug, thiserror::Error)]
pub enum RoleError {
    #[error("unknown role `{0}`")]
    Unknown(String),
    #[error("line")]
    Line(#[from] crate::line::LineError),
    #[error("role `{role}`: {message}")]
    Arguments { role: &'static str, message: String },
    #[error("role `{role}`: failed to {what}")]
    Io {
        role: &'static str,
        what: String,
        source: std::io::Error,
    },
}

/// Runs a role until it is killed.
///
/// # Errors
/// Whatever ends it before.
pub fn main(args: &[String]) -> Result<(), RoleError> {
    let (role, rest) = args
        .split_first()
        .ok_or_else(|| RoleError::Unknown(String::new()))?;
    match role.as_str() {
        "dns" => dns::main(rest),
        "drone" => drone::main(rest),
        "echo" => echo::main(rest),
        "http" => http::main(rest),
        "ndvi-server" => ndvi_server::main(rest),
        "reach" => reach::main(rest),
        "starve" => starve::main(rest),
        "line" => {
            let options = crate::line::Options::from_args(rest.iter().cloned())?;
            match crate::line::run(&options)? {}
        }
        _ => Err(RoleError::Unknown(role.clone())),
    }
}

/// `--name value` pairs, in order.
struct Arguments<'a> {
    role: &'static str,
    pairs: Vec<(&'a str, &'a str)>,
}

impl<'a> Arguments<'a> {
    fn parse(role: &'static str, args: &'a [String], known: &[&str]) -> Result<Self, RoleError> {
        let mut pairs = Vec::new();
        for pair in args.chunks(2) {
            let ok = match pair {
                [name, value] => name
                    .strip_prefix("--")
                    .filter(|n| known.contains(n))
                    .map(|n| (n, value.as_str())),
                _ => None,
            };
            let message = || {
                format!(
                    "`{}` is not one of --{} with a value",
                    pair.join(" "),
                    known.join(", --")
                )
            };
            pairs.push(ok.ok_or_else(|| RoleError::Arguments {
                role,
                message: message(),
            })?);
        }
        Ok(Self { role, pairs })
    }

    fn all<T: std::str::FromStr>(&self, name: &str) -> Result<Vec<T>, RoleError> {
        let values = self.pairs.iter().filter(|(n, _)| *n == name);
        values
            .map(|(n, value)| {
                let message = || format!("`{value}` is no value of --{n}");
                value.parse().map_err(|_| RoleError::Arguments {
                    role: self.role,
                    message: message(),
                })
            })
            .collect()
    }

    /// One value at most.
    fn optional<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, RoleError> {
        let mut values = self.all(name)?;
        match (values.pop(), values.pop()) {
            (value, None) => Ok(value),
            _ => Err(RoleError::Arguments {
                role: self.role,
                message: format!("--{name} must be given once at most"),
            }),
        }
    }

    /// Exactly one value.
    fn one<T: std::str::FromStr>(&self, name: &str) -> Result<T, RoleError> {
        let mut values = self.all(name)?;
        match (values.pop(), values.pop()) {
            (Some(value), None) => Ok(value),
            _ => Err(RoleError::Arguments {
                role: self.role,
                message: format!("--{name} must be given once"),
            }),
        }
    }
}

/// Runs `work` on a runtime of one thread.
fn block_on<F: Future<Output = Result<(), RoleError>>>(
    role: &'static str,
    work: F,
) -> Result<(), RoleError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| RoleError::Io {
            role,
            what: "start".into(),
            source,
        })?;
    runtime.block_on(work)
}

fn listening(role: &'static str, address: SocketAddr) -> impl FnOnce(std::io::Error) -> RoleError {
    move |source| RoleError::Io {
        role,
        what: format!("listen on {address}"),
        source,
    }
}
