//! A port of a pod as a stream, forwarded by the pod's API server: nothing has to be exposed for it.

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::client::UpgradeConnectionError;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::connect::Cluster;

/// Why a port is not forwarded.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    #[error("not allowed to create pods/portforward in {0}")]
    Forbidden(String),
    #[error("pod `{0}` is gone")]
    Gone(String),
    #[error("the API server does not forward ports of pod `{pod}`")]
    Failed {
        pod: String,
        #[source]
        source: Box<kube::Error>,
    },
}

impl Cluster {
    /// Both directions of one connection to `port` on the pod's loopback. It ends when the stream is dropped.
    ///
    /// # Errors
    /// What the API server answers. Whether anybody listens in the pod shows on the stream, which then ends at once.
    pub async fn forward(
        &self,
        namespace: &str,
        pod: &str,
        port: u16,
    ) -> Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static + use<>, ForwardError> {
        let api: Api<Pod> = Api::namespaced(self.client(), namespace);
        let failed = |error| match code(&error) {
            Some(403) => ForwardError::Forbidden(namespace.to_owned()),
            Some(404) => ForwardError::Gone(pod.to_owned()),
            _ => ForwardError::Failed {
                pod: pod.to_owned(),
                source: Box::new(error),
            },
        };
        let mut forwarder = api.portforward(pod, &[port]).await.map_err(failed)?;
        if let Some(error) = forwarder.take_error(port) {
            let pod = pod.to_owned();
            // Ends with the stream: the sender is dropped.
            tokio::spawn(async move {
                if let Some(message) = error.await {
                    tracing::warn!(pod, port, message, "forwarding failed in the pod's node");
                }
            });
        }
        Ok(forwarder
            .take_stream(port)
            .expect("the one port that was asked for is taken once"))
    }
}

fn code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        kube::Error::UpgradeConnection(UpgradeConnectionError::ProtocolSwitch(status)) => {
            Some(status.as_u16())
        }
        _ => None,
    }
}
