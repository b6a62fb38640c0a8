//! `ndvi.*`: the workload itself, tile by tile, and who exchanged how many bytes with it.

use mesh::observation::{Direction, Origin, Plane, ProbeKind};
use mesh::{Link, ServiceKind};

use super::{Draft, exchange, percent, spec};
use crate::checks::{NDVI_BYTES, NDVI_ROUND_TRIP, NDVI_SUCCESS};
use crate::verdict::Status;
use crate::view::View;

pub(super) fn rows(view: &View<'_>, link: &Link) -> Vec<Draft> {
    let served = |service: &&mesh::Service| {
        service.kind == ServiceKind::Ndvi && service.cluster == link.target && !service.is_global()
    };
    if view.mesh.services.iter().find(served).is_none() {
        return Vec::new();
    }
    let objectives = &view.mesh.objectives;
    let p0 = 1.0 - objectives.ndvi_success;
    let limit = objectives.ndvi_round_trip_seconds;
    let tiles = || view.of(link, Plane::Pod, ProbeKind::NdviTile);

    let success = exchange::answered(tiles());
    let (in_time, round_trips) = exchange::in_time(tiles(), limit);

    let mut success = success.draft(view, NDVI_SUCCESS, link, Plane::Pod, p0);
    success.check.expected.text = format!("at most {} of the tiles fail", percent(p0));
    let mut in_time = in_time.draft(view, NDVI_ROUND_TRIP, link, Plane::Pod, p0);
    in_time.check.expected.threshold_seconds = Some(limit);
    in_time.check.expected.text = format!(
        "at most {} of the tiles take longer than {limit} s",
        percent(p0)
    );
    round_trips.show(&mut in_time.check.observed, objectives.confidence);

    let mut drafts = vec![success, in_time];
    for draft in &mut drafts {
        if let Some(test) = &mut draft.test {
            test.each_node = false;
            // Any node may serve, so only the clients' side has names of its own.
            test.targets.clear();
            // The backend answers for itself: a silent agent in the target cluster hides nothing here.
            test.missing = super::silent(
                view,
                &Link {
                    source: link.source.clone(),
                    target: link.source.clone(),
                },
                Plane::Pod,
            );
        }
    }
    drafts
}

/// One row per NDVI service: bytes by client, from the kernels of the nodes that serve.
pub(super) fn clients(view: &View<'_>) -> Vec<Draft> {
    let mut rows = Vec::new();
    for service in view
        .mesh
        .services
        .iter()
        .filter(|s| s.kind == ServiceKind::Ndvi)
    {
        let mut row = Draft::settled(spec(NDVI_BYTES), Status::Info);
        let check = &mut row.check;
        check.target_cluster = Some(service.cluster.clone());
        check.expected.text = format!("bytes by client of `{}`, for information", service.name);
        let accepted = view.observations.series.iter().filter(|series| {
            series.node.cluster == service.cluster
                && series.class == service.name
                && series.direction == Direction::Acceptor
                && series.origin == Origin::Traffic
        });
        let moved = |series: &&mesh::observation::KernelSeries| {
            series.bytes_received + series.bytes_sent + series.established > 0
        };
        for series in accepted.filter(moved) {
            let bytes = check
                .observed
                .clients
                .entry(series.remote.clone())
                .or_default();
            bytes.received_bytes += series.bytes_received;
            bytes.sent_bytes += series.bytes_sent;
            bytes.connections += series.established;
        }
        for (client, bytes) in &check.observed.clients {
            check.evidence.push(format!(
                "`{client}`: {} B in, {} B out, {} new connections",
                bytes.received_bytes, bytes.sent_bytes, bytes.connections
            ));
        }
        if check.observed.clients.is_empty() {
            check
                .evidence
                .push("no traffic of others reached the service during the run".to_owned());
        }
        rows.push(row);
    }
    rows
}
