//! UDP echo: one reply per request, never longer than the request.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use mesh::observation::NodeRef;
use tokio::net::UdpSocket;

use super::runs::Runs;
use super::{ResponderStats, tolerate};
use crate::frame::{MAX_BYTES, Reply, Request};

/// The reply to one datagram; `None` for what is no request.
pub(super) fn answer(datagram: &[u8], me: &NodeRef, runs: &mut Runs) -> Option<Vec<u8>> {
    let request = Request::decode(datagram).ok()?;
    let reply = Reply {
        key: request.key,
        receiver_count: runs.count(request.key.run, request.key.sequence)?,
        responder: me.clone(),
    };
    reply.encode(request.length).ok()
}

pub(super) async fn serve(
    socket: UdpSocket,
    me: Arc<NodeRef>,
    stats: Arc<ResponderStats>,
) -> io::Result<Infallible> {
    let mut runs = Runs::default();
    let mut buffer = vec![0; MAX_BYTES + 1];
    loop {
        let (length, peer) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                tolerate(error).await?;
                continue;
            }
        };
        let Some(reply) = answer(&buffer[..length], &me, &mut runs) else {
            stats.ignored.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        stats
            .evicted_runs
            .fetch_add(std::mem::take(&mut runs.evicted), Ordering::Relaxed);
        let counter = match socket.send_to(&reply, peer).await {
            Ok(_) => &stats.udp_answered,
            Err(_) => &stats.send_errors,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
