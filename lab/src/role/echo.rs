//! TCP and UDP echo: returns every byte.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::{Arguments, RoleError, block_on, listening};

const ROLE: &str = "echo";
/// Connections beyond these wait in the listener's backlog.
const CONNECTIONS: usize = 1024;

/// `--listen ADDRESS:PORT`, any number.
pub(super) fn main(args: &[String]) -> Result<(), RoleError> {
    let args = Arguments::parse(ROLE, args, &["listen"])?;
    let addresses: Vec<SocketAddr> = args.all("listen")?;
    block_on(ROLE, async {
        let mut servers = JoinSet::new();
        for address in addresses {
            let tcp = TcpListener::bind(address)
                .await
                .map_err(listening(ROLE, address))?;
            let udp = UdpSocket::bind(address)
                .await
                .map_err(listening(ROLE, address))?;
            servers.spawn(serve_tcp(tcp));
            servers.spawn(serve_udp(udp));
        }
        match servers.join_next().await {
            Some(Ok(Err(source))) => Err(RoleError::Io {
                role: ROLE,
                what: "serve".into(),
                source,
            }),
            Some(Err(panic)) => std::panic::resume_unwind(panic.into_panic()),
            Some(Ok(Ok(()))) | None => Ok(()),
        }
    })
}

async fn serve_tcp(listener: TcpListener) -> std::io::Result<()> {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
            return Ok(());
        };
        let (mut stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            let (mut read, mut write) = stream.split();
            // A peer that goes away in the middle is its own business.
            let _ = tokio::io::copy(&mut read, &mut write).await;
            drop(permit);
        });
    }
}

async fn serve_udp(socket: UdpSocket) -> std::io::Result<()> {
    let mut buffer = vec![0; 65_536];
    loop {
        // Errors here are those of single answers (an ICMP error from an earlier peer).
        if let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
            let _ = socket.send_to(&buffer[..length], peer).await;
        }
    }
}
