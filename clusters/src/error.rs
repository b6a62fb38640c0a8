//! Why there is no client: what the user typed, or what the cluster did.

/// The kubeconfig, or what was asked of it, is at fault.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    #[error("cannot read the kubeconfig {place}")]
    Read {
        place: String,
        #[source]
        source: Box<kube::config::KubeconfigError>,
    },
    #[error("there is no context `{name}` in the kubeconfig {place}")]
    Unknown {
        name: String,
        place: String,
        known: Vec<String>,
    },
    #[error("context `{0}` is named twice")]
    Twice(String),
    #[error("no context is named")]
    None { known: Vec<String> },
}

impl ContextError {
    /// What to do next.
    pub fn hint(&self) -> String {
        let known = |known: &[String]| match known {
            [] => "the kubeconfig has no context at all: name another with --kubeconfig".to_owned(),
            known => format!("known contexts: {}", known.join(", ")),
        };
        match self {
            Self::Read { .. } => "name a kubeconfig with --kubeconfig, or in KUBECONFIG".to_owned(),
            Self::Unknown { known: names, .. } | Self::None { known: names } => known(names),
            Self::Twice(_) => "name each cluster once".to_owned(),
        }
    }
}

/// One cluster cannot be talked to; the others may.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("its entry in the kubeconfig cannot be used")]
    Entry(#[source] Box<kube::config::KubeconfigError>),
    #[error("its credentials or certificates cannot be used")]
    Client(#[source] Box<kube::Error>),
    #[error("the credentials plugin of its kubeconfig entry did not answer within {0:.0?}")]
    Plugin(std::time::Duration),
    #[error("the API server at `{server}` did not answer within {limit:.0?}")]
    Silent {
        server: String,
        limit: std::time::Duration,
    },
    #[error("the API server at `{server}` cannot be asked")]
    Ask {
        server: String,
        #[source]
        source: Box<kube::Error>,
    },
}
