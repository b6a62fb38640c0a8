//! From an entry of the kubeconfig to a client whose API server answers, within a fixed time.

use std::time::Duration;

use hyper_util::client::proxy::matcher::Matcher;
use kube::{Client, Config};
use tokio::time::timeout;

use crate::error::ConnectError;

/// Longest wait until a cluster counts as unreachable, its credentials plugin included.
pub const REACH: Duration = Duration::from_secs(3);

/// Longest silence of an API server in the middle of an answer.
const SILENCE: Duration = Duration::from_secs(10);

/// A cluster whose API server answers.
#[derive(Clone)]
pub struct Cluster {
    pub context: String,
    /// Address of the API server, as the kubeconfig has it.
    pub server: String,
    /// "v1.34.4": what the API server runs.
    pub version: String,
    pub(crate) client: Client,
}

pub(crate) async fn connect(context: &str, mut config: Config) -> Result<Cluster, ConnectError> {
    let deadline = tokio::time::Instant::now() + REACH;
    let server = config.cluster_url.to_string();
    config.connect_timeout = Some(REACH);
    config.read_timeout = Some(SILENCE);
    // A credentials plugin is a program that kube waits for: that must not hold up the other clusters.
    let making = tokio::task::spawn_blocking(move || Client::try_from(config));
    let client = match tokio::time::timeout_at(deadline, making).await {
        Ok(Ok(Ok(client))) => client,
        Ok(Ok(Err(error))) => return Err(ConnectError::Client(Box::new(error))),
        Ok(Err(panic)) => std::panic::resume_unwind(panic.into_panic()),
        Err(_) => return Err(ConnectError::Plugin(REACH)),
    };
    let left = deadline - tokio::time::Instant::now();
    match timeout(left, client.apiserver_version()).await {
        Ok(Ok(version)) => Ok(Cluster {
            context: context.to_owned(),
            server,
            version: version.git_version,
            client,
        }),
        Ok(Err(source)) => Err(ConnectError::Ask {
            server,
            source: Box::new(source),
        }),
        Err(_) => Err(ConnectError::Silent {
            server,
            limit: REACH,
        }),
    }
}

/// Whether NO_PROXY exempts `server` from the proxy of the environment.
pub(crate) fn spares_proxy(server: &hyper::Uri) -> bool {
    Matcher::from_env().intercept(server).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn answer(url: &str) -> ConnectError {
        let config = Config::new(url.parse().expect("a URL"));
        match connect("c", config).await {
            Ok(_) => panic!("nothing answers at {url}"),
            Err(error) => error,
        }
    }

    #[tokio::test]
    async fn a_refusing_server_is_a_result_at_once() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
        let at = listener.local_addr().expect("bound");
        drop(listener);
        let error = answer(&format!("http://{at}")).await;
        assert!(matches!(error, ConnectError::Ask { .. }), "{error}");
        assert!(error.to_string().contains(&at.to_string()), "{error}");
    }

    /// Its queue takes the connection, nobody ever reads from it.
    #[tokio::test(start_paused = true)]
    async fn a_silent_server_is_a_result_after_the_limit() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
        let at = listener.local_addr().expect("bound");
        let error = answer(&format!("http://{at}")).await;
        assert!(matches!(error, ConnectError::Silent { .. }), "{error}");
    }

    /// kube waits for the plugin without end; we do not.
    #[tokio::test]
    async fn a_plugin_that_hangs_is_a_result_after_the_limit() {
        let mut config = Config::new("http://127.0.0.1:1".parse().expect("a URL"));
        let exec = serde_json::json!({
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": "sleep",
            "args": ["4"],
            "interactiveMode": "Never",
        });
        config.auth_info.exec = Some(serde_json::from_value(exec).expect("an exec entry"));
        let error = match connect("c", config).await {
            Ok(_) => panic!("the plugin gives nothing"),
            Err(error) => error,
        };
        assert!(matches!(error, ConnectError::Plugin(_)), "{error}");
    }
}
