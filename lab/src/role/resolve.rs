//! One name asked of one DNS server over UDP: first its IPv4, then its IPv6 addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_server::proto::op::{Message, MessageType, Query, ResponseCode};
use hickory_server::proto::rr::{Name, RData, RecordType};
use tokio::net::UdpSocket;
use tokio::time::timeout;

/// For one answer. A lost datagram is asked for again.
const PATIENCE: Duration = Duration::from_millis(1000);
const TRIES: usize = 2;

#[derive(Debug, thiserror::Error)]
pub(super) enum LookupError {
    #[error("`{0}` is no DNS name")]
    Name(String),
    #[error("no answer from {server} about `{name}`")]
    NoAnswer { server: SocketAddr, name: String },
    #[error("{server} answers {code} about `{name}`")]
    Refused {
        server: SocketAddr,
        name: String,
        code: ResponseCode,
    },
    #[error("failed to ask {server}: {source}")]
    Io {
        server: SocketAddr,
        source: std::io::Error,
    },
}

/// Addresses of `name`, which is taken as complete: no search list. Empty when it has none.
pub(super) async fn lookup(server: SocketAddr, name: &str) -> Result<Vec<IpAddr>, LookupError> {
    let mut complete = Name::from_ascii(name).map_err(|_| LookupError::Name(name.to_owned()))?;
    complete.set_fqdn(true);
    let mut addresses = Vec::new();
    for kind in [RecordType::A, RecordType::AAAA] {
        let answer = ask(server, Query::query(complete.clone(), kind)).await?;
        match answer.metadata.response_code {
            ResponseCode::NoError => {}
            ResponseCode::NXDomain => return Ok(Vec::new()),
            code => {
                return Err(LookupError::Refused {
                    server,
                    name: name.to_owned(),
                    code,
                });
            }
        }
        addresses.extend(
            answer
                .answers
                .iter()
                .filter_map(|record| match record.data {
                    RData::A(v4) => Some(IpAddr::V4(v4.0)),
                    RData::AAAA(v6) => Some(IpAddr::V6(v6.0)),
                    _ => None,
                }),
        );
    }
    Ok(addresses)
}

async fn ask(server: SocketAddr, query: Query) -> Result<Message, LookupError> {
    let failed = |source| LookupError::Io { server, source };
    let own: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    for _ in 0..TRIES {
        // A port and an id of its own for every question: hard to answer by guessing.
        let socket = UdpSocket::bind((own, 0)).await.map_err(failed)?;
        socket.connect(server).await.map_err(failed)?;
        let mut question = Message::query();
        question.add_query(query.clone());
        let bytes = question
            .to_vec()
            .map_err(|error| failed(std::io::Error::other(error)))?;
        socket.send(&bytes).await.map_err(failed)?;
        match timeout(PATIENCE, answer(&socket, &question)).await {
            Ok(answer) => return answer.map_err(failed),
            Err(_) => continue,
        }
    }
    Err(LookupError::NoAnswer {
        server,
        name: query.name().to_string(),
    })
}

/// The first datagram that answers `question`; others are not for us.
async fn answer(socket: &UdpSocket, question: &Message) -> std::io::Result<Message> {
    let mut buffer = [0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if let Ok(message) = Message::from_vec(&buffer[..length])
            && message.metadata.message_type == MessageType::Response
            && message.metadata.id == question.metadata.id
            && message.queries == question.queries
        {
            return Ok(message);
        }
    }
}
