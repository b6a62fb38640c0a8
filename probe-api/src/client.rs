//! A client of one agent: every call has a deadline, every reply is checked before it is handed on.

use std::path::PathBuf;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use mesh::observation::{NodeRef, Sample};
use mesh::{AgentEndpoint, Tls};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity as TlsIdentity};

use crate::measure::{MeasureChecker, MeasurePlan, Measurement};
use crate::reply::{Identity, KernelConnections, Observation, WireError};
use crate::request::{PlanError, ProbePlan};
use crate::results::ResultChecker;
use crate::wire;
use crate::wire::agent_client::AgentClient;

/// Largest reply that is read.
const MAX_REPLY_BYTES: usize = 32 << 20;

/// Why a call gave no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("cannot read `{path}`")]
    ReadFile {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("agent `{endpoint}` needs `tls:` in mesh.yaml")]
    TlsMissing { endpoint: String },
    #[error("agent `{endpoint}` is behind the API server of its cluster")]
    NeedsForward { endpoint: String },
    #[error("cannot connect to agent `{endpoint}`")]
    Connect {
        endpoint: String,
        #[source]
        source: tonic::transport::Error,
    },
    #[error("agent `{endpoint}` gave no answer to {call} within {after:?}")]
    Deadline {
        endpoint: String,
        call: &'static str,
        after: Duration,
    },
    #[error("agent `{endpoint}` refused {call}: {message}")]
    Refused {
        endpoint: String,
        call: &'static str,
        code: tonic::Code,
        message: String,
    },
    #[error("agent `{endpoint}` gave an answer to {call} that cannot be believed")]
    Reply {
        endpoint: String,
        call: &'static str,
        #[source]
        source: WireError,
    },
    #[error("agent `{endpoint}` ended the probes early, {missing} results are missing")]
    Truncated { endpoint: String, missing: u64 },
    #[error("the probes cannot be asked for")]
    Plan(#[from] PlanError),
}

/// How long each step may take.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    pub connect: Duration,
    /// A single question and answer.
    pub call: Duration,
    /// Silence on a stream of results, beyond the plan's own interval and timeout.
    pub stream_slack: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(3),
            call: Duration::from_secs(5),
            stream_slack: Duration::from_secs(5),
        }
    }
}

/// A connection to one agent.
#[derive(Clone, Debug)]
pub struct Client {
    inner: AgentClient<Channel>,
    endpoint: String,
    deadlines: Deadlines,
}

fn read(path: &str) -> Result<Vec<u8>, ClientError> {
    std::fs::read(path).map_err(|source| ClientError::ReadFile {
        path: path.to_owned(),
        source,
    })
}

fn tls_config(tls: &Tls, host: &str) -> Result<ClientTlsConfig, ClientError> {
    Ok(ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(read(&tls.ca)?))
        .identity(TlsIdentity::from_pem(read(&tls.cert)?, read(&tls.key)?))
        .domain_name(host.trim_matches(['[', ']'])))
}

fn tune(endpoint: Endpoint, deadlines: Deadlines) -> Endpoint {
    endpoint
        .connect_timeout(deadlines.connect)
        .http2_keep_alive_interval(Duration::from_secs(2))
        // Either end may be starved for seconds on a loaded machine; silence on a stream is noticed sooner.
        .keep_alive_timeout(Duration::from_secs(10))
}

impl Client {
    /// Connects with the default deadlines. `tls` is required for `https` endpoints and not used for others.
    pub async fn connect(endpoint: &AgentEndpoint, tls: Option<&Tls>) -> Result<Self, ClientError> {
        Self::connect_within(endpoint, tls, Deadlines::default()).await
    }

    pub async fn connect_within(
        endpoint: &AgentEndpoint,
        tls: Option<&Tls>,
        deadlines: Deadlines,
    ) -> Result<Self, ClientError> {
        let name = endpoint.to_string();
        let failed = |source| ClientError::Connect {
            endpoint: name.clone(),
            source,
        };
        let tune = |endpoint| tune(endpoint, deadlines);
        let opening = async {
            match endpoint {
                AgentEndpoint::Unix(path) => {
                    let path = PathBuf::from(path);
                    tune(Endpoint::from_static("http://agent"))
                        .connect_with_connector(tower::service_fn(move |_| {
                            let path = path.clone();
                            async move {
                                Ok::<_, std::io::Error>(TokioIo::new(
                                    UnixStream::connect(path).await?,
                                ))
                            }
                        }))
                        .await
                        .map_err(failed)
                }
                AgentEndpoint::HttpLoopback(address) => {
                    tune(Endpoint::from_shared(format!("http://{address}")).map_err(failed)?)
                        .connect()
                        .await
                        .map_err(failed)
                }
                AgentEndpoint::Pod { .. } => Err(ClientError::NeedsForward {
                    endpoint: name.clone(),
                }),
                AgentEndpoint::Https { host, port } => {
                    let tls = tls.ok_or_else(|| ClientError::TlsMissing {
                        endpoint: name.clone(),
                    })?;
                    let uri = if host.contains(':') && !host.starts_with('[') {
                        format!("https://[{host}]:{port}")
                    } else {
                        format!("https://{host}:{port}")
                    };
                    tune(Endpoint::from_shared(uri).map_err(failed)?)
                        .tls_config(tls_config(tls, host)?)
                        .map_err(failed)?
                        .connect()
                        .await
                        .map_err(failed)
                }
            }
        };
        let channel = opened(&name, deadlines, opening).await?;
        Ok(Self::of(channel, name, deadlines))
    }

    /// Talks to the agent at the other end of `stream`, which carries all calls, and ends with it. `name` is for messages;
    /// `tls` comes with the name that the agent's certificate must be for.
    pub async fn over<S>(
        name: &str,
        stream: S,
        tls: Option<(&Tls, &str)>,
        deadlines: Deadlines,
    ) -> Result<Self, ClientError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let failed = |source| ClientError::Connect {
            endpoint: name.to_owned(),
            source,
        };
        let mut endpoint = tune(
            Endpoint::from_static(match tls {
                Some(_) => "https://agent",
                None => "http://agent",
            }),
            deadlines,
        );
        if let Some((tls, host)) = tls {
            endpoint = endpoint
                .tls_config(tls_config(tls, host)?)
                .map_err(failed)?;
        }
        let mut stream = Some(TokioIo::new(stream));
        let once = tower::service_fn(move |_| {
            let closed = || std::io::Error::new(std::io::ErrorKind::NotConnected, "it was closed");
            std::future::ready(stream.take().ok_or_else(closed))
        });
        let opening = async { endpoint.connect_with_connector(once).await.map_err(failed) };
        let channel = opened(name, deadlines, opening).await?;
        Ok(Self::of(channel, name.to_owned(), deadlines))
    }

    fn of(channel: Channel, endpoint: String, deadlines: Deadlines) -> Self {
        Self {
            inner: AgentClient::new(channel).max_decoding_message_size(MAX_REPLY_BYTES),
            endpoint,
            deadlines,
        }
    }

    async fn call<T>(
        &self,
        call: &'static str,
        answer: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T, ClientError> {
        match tokio::time::timeout(self.deadlines.call, answer).await {
            Err(_) => Err(ClientError::Deadline {
                endpoint: self.endpoint.clone(),
                call,
                after: self.deadlines.call,
            }),
            Ok(Err(status)) => Err(refused(&self.endpoint, call, &status)),
            Ok(Ok(response)) => Ok(response.into_inner()),
        }
    }

    fn believe<T>(
        &self,
        call: &'static str,
        checked: Result<T, WireError>,
    ) -> Result<T, ClientError> {
        checked.map_err(|source| ClientError::Reply {
            endpoint: self.endpoint.clone(),
            call,
            source,
        })
    }

    pub async fn identity(&self) -> Result<Identity, ClientError> {
        let mut inner = self.inner.clone();
        let reply = self
            .call("identity", inner.identity(wire::IdentityRequest {}))
            .await?;
        self.believe("identity", reply.try_into())
    }

    pub async fn observe(&self) -> Result<Observation, ClientError> {
        let mut inner = self.inner.clone();
        let reply = self
            .call("observe", inner.observe(wire::ObserveRequest {}))
            .await?;
        self.believe("observe", reply.try_into())
    }

    /// Kernel records at or after `since_ns` on the monotonic clock of `node`, whose agent this is.
    pub async fn connections(
        &self,
        node: &NodeRef,
        since_ns: u64,
    ) -> Result<KernelConnections, ClientError> {
        let mut inner = self.inner.clone();
        let reply = self
            .call(
                "connections",
                inner.connections(wire::ConnectionsRequest { since_ns }),
            )
            .await?;
        self.believe("connections", KernelConnections::from_wire(reply, node))
    }

    /// Starts the probes of `plan`; dropping the stream stops them.
    pub async fn probe(&self, plan: &ProbePlan) -> Result<ProbeStream, ClientError> {
        plan.check()?;
        let mut inner = self.inner.clone();
        let stream = self
            .call("probe", inner.probe(wire::ProbeRequest::from(plan)))
            .await?;
        Ok(ProbeStream {
            stream,
            checker: ResultChecker::new(plan),
            endpoint: self.endpoint.clone(),
            silence: plan
                .interval
                .saturating_add(plan.timeout)
                .saturating_add(self.deadlines.stream_slack),
        })
    }
}

impl Client {
    /// Starts the measurements of `plan`; dropping the stream stops them.
    pub async fn measure(&self, plan: &MeasurePlan) -> Result<MeasureStream, ClientError> {
        plan.check()?;
        let mut inner = self.inner.clone();
        let stream = self
            .call("measure", inner.measure(wire::MeasureRequest::from(plan)))
            .await?;
        Ok(MeasureStream {
            stream,
            checker: MeasureChecker::new(plan),
            endpoint: self.endpoint.clone(),
            silence: MeasurePlan::LONGEST_OF_TARGET.saturating_add(self.deadlines.stream_slack),
        })
    }
}

/// The channel, if it opens in time.
async fn opened(
    endpoint: &str,
    deadlines: Deadlines,
    opening: impl Future<Output = Result<Channel, ClientError>>,
) -> Result<Channel, ClientError> {
    match tokio::time::timeout(deadlines.connect, opening).await {
        Ok(opened) => opened,
        Err(_) => Err(ClientError::Deadline {
            endpoint: endpoint.to_owned(),
            call: "connect",
            after: deadlines.connect,
        }),
    }
}

fn refused(endpoint: &str, call: &'static str, status: &tonic::Status) -> ClientError {
    ClientError::Refused {
        endpoint: endpoint.to_owned(),
        call,
        code: status.code(),
        message: crate::reply::printable(status.message(), 400),
    }
}

/// Results as they become known.
#[derive(Debug)]
pub struct ProbeStream {
    stream: tonic::Streaming<wire::ProbeResult>,
    checker: ResultChecker,
    endpoint: String,
    silence: Duration,
}

impl ProbeStream {
    /// Results not yet seen.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.checker.missing()
    }

    /// The next result with the index of its target in the plan; `None` when every probe has one.
    /// A stream that ends before that is [`ClientError::Truncated`].
    pub async fn next(&mut self) -> Result<Option<(usize, Sample)>, ClientError> {
        match tokio::time::timeout(self.silence, self.stream.message()).await {
            Err(_) => Err(ClientError::Deadline {
                endpoint: self.endpoint.clone(),
                call: "probe",
                after: self.silence,
            }),
            Ok(Err(status)) => Err(refused(&self.endpoint, "probe", &status)),
            Ok(Ok(Some(result))) => match self.checker.accept(result) {
                Ok(accepted) => Ok(Some(accepted)),
                Err(source) => Err(ClientError::Reply {
                    endpoint: self.endpoint.clone(),
                    call: "probe",
                    source,
                }),
            },
            Ok(Ok(None)) if self.checker.missing() == 0 => Ok(None),
            Ok(Ok(None)) => Err(ClientError::Truncated {
                endpoint: self.endpoint.clone(),
                missing: self.checker.missing(),
            }),
        }
    }
}

/// Measurements as they become known.
#[derive(Debug)]
pub struct MeasureStream {
    stream: tonic::Streaming<wire::MeasureResult>,
    checker: MeasureChecker,
    endpoint: String,
    silence: Duration,
}

impl MeasureStream {
    /// The next result with the index of its target in the plan; `None` when both directions of every target
    /// have one. A stream that ends before that is [`ClientError::Truncated`].
    pub async fn next(&mut self) -> Result<Option<(usize, Measurement)>, ClientError> {
        const CALL: &str = "measure";
        match tokio::time::timeout(self.silence, self.stream.message()).await {
            Err(_) => Err(ClientError::Deadline {
                endpoint: self.endpoint.clone(),
                call: CALL,
                after: self.silence,
            }),
            Ok(Err(status)) => Err(refused(&self.endpoint, CALL, &status)),
            Ok(Ok(Some(result))) => match self.checker.accept(result) {
                Ok(accepted) => Ok(Some(accepted)),
                Err(source) => Err(ClientError::Reply {
                    endpoint: self.endpoint.clone(),
                    call: CALL,
                    source,
                }),
            },
            Ok(Ok(None)) if self.checker.missing() == 0 => Ok(None),
            Ok(Ok(None)) => Err(ClientError::Truncated {
                endpoint: self.endpoint.clone(),
                missing: self.checker.missing(),
            }),
        }
    }
}
