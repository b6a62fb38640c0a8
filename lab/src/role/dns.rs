//! A cluster's DNS server: authoritative for the names of its zone file, refuses every other zone.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hickory_server::Server;
use hickory_server::net::runtime::{Time, TokioRuntimeProvider};
use hickory_server::proto::op::ResponseCode;
use hickory_server::proto::rr::rdata::SOA;
use hickory_server::proto::rr::{LowerName, Name, RData, Record};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::store::in_memory::InMemoryZoneHandler;
use hickory_server::zone_handler::{
    AxfrPolicy, Catalog, MessageResponseBuilder, ZoneHandler, ZoneType,
};
use tokio::net::{TcpListener, UdpSocket};

use crate::fault::Trouble;

use super::{Arguments, RoleError, block_on, listening};

const ROLE: &str = "dns";
/// A client asks again soon: services of a lab come and go.
const TTL_SECONDS: u32 = 5;
/// How late a slow server answers.
const SLOW: Duration = Duration::from_millis(300);
/// Addresses for documentation, which nobody has.
const WRONG_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 53);
const WRONG_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x53);
const TCP_PATIENCE: Duration = Duration::from_secs(5);
const TCP_ANSWERS: usize = 32;

/// `--listen ADDRESS:PORT`, any number; `--zone FILE` of lines `name address`; `--trouble WORD` of [`Trouble`].
pub(super) fn main(args: &[String]) -> Result<(), RoleError> {
    let args = Arguments::parse(ROLE, args, &["listen", "zone", "trouble"])?;
    let addresses: Vec<SocketAddr> = args.all("listen")?;
    let trouble: Option<Trouble> = args.optional("trouble")?;
    let file: PathBuf = args.one("zone")?;
    let text = std::fs::read_to_string(&file).map_err(|source| RoleError::Io {
        role: ROLE,
        what: format!("read {}", file.display()),
        source,
    })?;
    let catalog = catalog(&text, trouble).map_err(|message| RoleError::Arguments {
        role: ROLE,
        message: format!("{}: {message}", file.display()),
    })?;
    block_on(ROLE, async {
        let mut server = Server::new(Troubled { catalog, trouble });
        for address in addresses {
            listen(&mut server, address)
                .await
                .map_err(listening(ROLE, address))?;
        }
        server
            .block_until_done()
            .await
            .map_err(|error| RoleError::Io {
                role: ROLE,
                what: "serve".into(),
                source: std::io::Error::other(error),
            })
    })
}

/// A server with something wrong.
struct Troubled {
    catalog: Catalog,
    trouble: Option<Trouble>,
}

#[async_trait::async_trait]
impl RequestHandler for Troubled {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut response: R,
    ) -> ResponseInfo {
        match self.trouble {
            Some(Trouble::Silent) => std::future::pending().await,
            Some(Trouble::Slow) => tokio::time::sleep(SLOW).await,
            Some(Trouble::ServerFailure) => {
                let failure = MessageResponseBuilder::from_message_request(request)
                    .error_msg(&request.metadata, ResponseCode::ServFail);
                // Who did not wait for it does not get it.
                if let Ok(info) = response.send_response(failure).await {
                    return info;
                }
            }
            Some(Trouble::NoSuchName | Trouble::Wrong) | None => {}
        }
        self.catalog.handle_request::<R, T>(request, response).await
    }
}

/// UDP and TCP at the same port; returns it.
async fn listen(server: &mut Server<Troubled>, address: SocketAddr) -> std::io::Result<SocketAddr> {
    let tcp = TcpListener::bind(address).await?;
    let address = tcp.local_addr()?;
    server.register_socket(UdpSocket::bind(address).await?);
    server.register_listener(tcp, TCP_PATIENCE, TCP_ANSWERS);
    Ok(address)
}

/// One zone per last label of the names, so `mesh` for `ndvi.svc.talos-east.mesh`.
fn catalog(text: &str, trouble: Option<Trouble>) -> Result<Catalog, String> {
    let mut zones: BTreeMap<Name, InMemoryZoneHandler<TokioRuntimeProvider>> = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let (name, address) = entry(line)
            .ok_or_else(|| format!("line {}: `{line}` is not `name address`", index + 1))?;
        let origin = name.trim_to(1);
        let zone = zones
            .entry(origin.clone())
            .or_insert_with(|| empty_zone(&origin));
        let address = match (trouble, address) {
            // The name's zone stays, so that the answer is NXDOMAIN and not a refusal.
            (Some(Trouble::NoSuchName), _) => continue,
            (Some(Trouble::Wrong), IpAddr::V4(_)) => WRONG_V4.into(),
            (Some(Trouble::Wrong), IpAddr::V6(_)) => WRONG_V6.into(),
            (_, address) => address,
        };
        let data = match address {
            IpAddr::V4(v4) => RData::A(v4.into()),
            IpAddr::V6(v6) => RData::AAAA(v6.into()),
        };
        // False when the record is there already, which changes nothing.
        zone.upsert_mut(Record::from_rdata(name, TTL_SECONDS, data), 0);
    }
    let mut catalog = Catalog::new();
    for (origin, zone) in zones {
        let handler: Arc<dyn ZoneHandler> = Arc::new(zone);
        catalog.upsert(LowerName::from(origin), vec![handler]);
    }
    Ok(catalog)
}

fn entry(line: &str) -> Option<(Name, IpAddr)> {
    let (name, address) = line.split_once(char::is_whitespace)?;
    let mut name = Name::from_ascii(name).ok()?;
    name.set_fqdn(true);
    (name.num_labels() > 0).then_some(())?;
    Some((name.to_lowercase(), address.trim().parse().ok()?))
}

/// A zone with the SOA record that negative answers carry.
fn empty_zone(origin: &Name) -> InMemoryZoneHandler<TokioRuntimeProvider> {
    let mut zone = InMemoryZoneHandler::empty(origin.clone(), ZoneType::Primary, AxfrPolicy::Deny);
    let host = |label: &str| {
        let label = Name::from_ascii(label).expect("a plain label");
        label
            .append_domain(origin)
            .unwrap_or_else(|_| origin.clone())
    };
    let soa = SOA::new(
        host("ns"),
        host("hostmaster"),
        1,
        3600,
        600,
        86_400,
        TTL_SECONDS,
    );
    zone.upsert_mut(
        Record::from_rdata(origin.clone(), TTL_SECONDS, RData::SOA(soa)),
        0,
    );
    zone
}

#[cfg(test)]
pub(super) mod tests {
    use hickory_server::proto::op::{Message, Query};
    use hickory_server::proto::rr::RecordType;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;
    use crate::role::resolve::{self, LookupError};

    const ZONE: &str = "\
# services
ndvi.svc.talos-east.mesh 10.96.0.80
ndvi.svc.talos-east.mesh\tfd15::80   # both families
ndvi.svc.talos-east.mesh 10.96.0.80

Old.svc.picluster.mesh 10.128.0.1
host.lan 192.168.1.1
";

    /// A server for `zone` on loopback, in this test's runtime.
    pub(in crate::role) async fn start(zone: &str) -> SocketAddr {
        start_with(zone, None).await
    }

    async fn start_with(zone: &str, trouble: Option<Trouble>) -> SocketAddr {
        let catalog = catalog(zone, trouble).unwrap();
        let mut server = Server::new(Troubled { catalog, trouble });
        let any = "127.0.0.1:0".parse().unwrap();
        let address = listen(&mut server, any).await.unwrap();
        tokio::spawn(async move { server.block_until_done().await });
        address
    }

    async fn addresses(server: SocketAddr, name: &str) -> Vec<String> {
        let found = resolve::lookup(server, name).await.unwrap();
        found.iter().map(ToString::to_string).collect()
    }

    #[tokio::test]
    async fn names_have_the_addresses_of_the_file() {
        let server = start(ZONE).await;
        assert_eq!(
            addresses(server, "ndvi.svc.talos-east.mesh").await,
            ["10.96.0.80", "fd15::80"]
        );
        assert_eq!(
            addresses(server, "NDVI.svc.Talos-East.mesh.").await,
            ["10.96.0.80", "fd15::80"]
        );
        assert_eq!(
            addresses(server, "old.svc.picluster.mesh").await,
            ["10.128.0.1"]
        );
        assert_eq!(addresses(server, "host.lan").await, ["192.168.1.1"]);
        assert_eq!(
            addresses(server, "nobody.svc.talos-east.mesh").await,
            [] as [&str; 0]
        );
    }

    #[tokio::test]
    async fn other_zones_are_refused() {
        let server = start(ZONE).await;
        let refused = resolve::lookup(server, "example.org").await;
        assert!(
            matches!(
                refused,
                Err(LookupError::Refused {
                    code: ResponseCode::Refused,
                    ..
                })
            ),
            "{refused:?}"
        );
    }

    /// Over TCP, as a resolver asks after a truncated answer.
    async fn over_tcp(server: SocketAddr, name: &str, kind: RecordType) -> Message {
        let mut question = Message::query();
        question.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        let bytes = question.to_vec().unwrap();
        let mut stream = TcpStream::connect(server).await.unwrap();
        let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
        stream
            .write_all(&[&length[..], &bytes].concat())
            .await
            .unwrap();
        let length = stream.read_u16().await.unwrap();
        let mut answer = vec![0; length.into()];
        stream.read_exact(&mut answer).await.unwrap();
        Message::from_vec(&answer).unwrap()
    }

    #[tokio::test]
    async fn answers_are_authoritative_and_negative_ones_carry_the_soa() {
        let server = start(ZONE).await;
        let found = over_tcp(server, "ndvi.svc.talos-east.mesh.", RecordType::A).await;
        assert!(found.metadata.authoritative);
        assert_eq!(found.answers.len(), 1);
        assert_eq!(found.answers[0].ttl, TTL_SECONDS);
        for (name, kind, code) in [
            ("nobody.mesh.", RecordType::A, ResponseCode::NXDomain),
            (
                "old.svc.picluster.mesh.",
                RecordType::AAAA,
                ResponseCode::NoError,
            ),
        ] {
            let nothing = over_tcp(server, name, kind).await;
            assert_eq!(nothing.metadata.response_code, code, "{name}");
            assert_eq!(nothing.answers, [], "{name}");
            assert_eq!(nothing.authorities.len(), 1, "{name}");
            assert_eq!(nothing.authorities[0].record_type(), RecordType::SOA);
        }
    }

    #[test]
    fn a_broken_zone_file_names_its_line() {
        for (line, text) in [
            (1, "ndvi.mesh"),
            (2, "a.mesh 10.0.0.1\nb.mesh 10.0.0.256"),
            (1, ". 10.0.0.1"),
            (1, "a..b 10.0.0.1"),
            (3, "\n\n10.0.0.1 a.mesh"),
        ] {
            let Err(error) = catalog(text, None) else {
                panic!("{text:?} was accepted");
            };
            assert!(error.starts_with(&format!("line {line}: ")), "{error}");
        }
        assert!(catalog("# nothing\n", None).is_ok());
    }

    #[tokio::test]
    async fn a_silent_server_is_given_up() {
        let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let server = silent.local_addr().unwrap();
        let nothing = resolve::lookup(server, "a.mesh").await;
        assert!(
            matches!(nothing, Err(LookupError::NoAnswer { .. })),
            "{nothing:?}"
        );
    }

    #[tokio::test]
    async fn every_trouble_is_what_it_is_called() {
        const NAME: &str = "ndvi.svc.talos-east.mesh";
        for (trouble, word) in Trouble::ALL {
            assert_eq!(word.parse(), Ok(trouble));
            let server = start_with(ZONE, Some(trouble)).await;
            let before = std::time::Instant::now();
            let found = resolve::lookup(server, NAME).await;
            match (trouble, found) {
                (Trouble::NoSuchName, Ok(found)) => assert_eq!(found, [] as [IpAddr; 0]),
                (Trouble::ServerFailure, Err(LookupError::Refused { code, .. })) => {
                    assert_eq!(code, ResponseCode::ServFail);
                }
                (Trouble::Silent, Err(LookupError::NoAnswer { .. })) => {}
                (Trouble::Slow, Ok(found)) => {
                    assert_eq!(found.len(), 2);
                    // One question for each family.
                    assert!(before.elapsed() >= 2 * SLOW);
                }
                (Trouble::Wrong, Ok(found)) => {
                    assert_eq!(found, [IpAddr::from(WRONG_V4), WRONG_V6.into()]);
                }
                (trouble, found) => panic!("{trouble}: {found:?}"),
            }
        }
    }
}
