//! Every metric family of the agent: one table for the exposition, the reference and the tests.

/// What a family holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Exposed with the suffix `_total`.
    Counter,
    Gauge,
    Histogram,
}

/// One family.
#[derive(Debug, PartialEq, Eq)]
pub struct Definition {
    /// Without the suffix that its kind adds.
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

impl Definition {
    /// As a sample of it is called, and as queries select it (histograms add `_bucket`, `_count`, `_sum`).
    #[must_use]
    pub fn exposed_name(&self) -> String {
        match self.kind {
            Kind::Counter => format!("{}_total", self.name),
            Kind::Gauge | Kind::Histogram => self.name.to_owned(),
        }
    }
}

macro_rules! families {
    ($($(#[doc = $group:literal])* $id:ident: $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(pub static $id: Definition = Definition {
            name: $name,
            kind: Kind::$kind,
            labels: &[$($label),*],
            help: $help,
        };)*

        /// All families, in the order of the exposition.
        pub static ALL: &[&Definition] = &[$(&$id),*];
    };
}

families! {
    BUILD: Gauge "aggrik8s_build_info" ["version", "source_cluster", "node", "plane"]
        "1; the labels say which agent this is and where it runs.";

    TCP_CONNECTS: Counter "aggrik8s_tcp_connects" ["origin", "source_cluster", "target_cluster", "client", "class", "outcome"]
        "TCP connects begun here that ended, by outcome. Counted at the initiator only, so sums count a connect once.";
    TCP_ACCEPTS: Counter "aggrik8s_tcp_accepts" ["origin", "source_cluster", "target_cluster", "client", "class"]
        "TCP connections accepted here.";
    TCP_CONNECT_DURATION: Histogram "aggrik8s_tcp_connect_duration_seconds" ["origin", "source_cluster", "target_cluster", "client", "class"]
        "First SYN to established, SYN retransmits included.";
    TCP_HANDSHAKE_RTT: Histogram "aggrik8s_tcp_handshake_rtt_seconds" ["origin", "source_cluster", "target_cluster", "client", "class", "direction"]
        "Round trip of the handshake: SYN to SYN-ACK at the initiator, SYN-ACK to ACK at the acceptor. Not taken when a segment was sent again.";
    TCP_MIN_RTT: Histogram "aggrik8s_tcp_min_rtt_seconds" ["origin", "source_cluster", "target_cluster", "client", "class", "direction"]
        "Smallest round trip of a connection, once, when it closes.";
    TCP_ACK_LATENCY: Histogram "aggrik8s_tcp_ack_latency_seconds" ["origin", "source_cluster", "target_cluster", "client", "class", "direction"]
        "Every round-trip sample after the handshake. Contains the peer's delayed ACK: not the path's latency.";
    TCP_CONNECTS_RETRANSMITTED: Counter "aggrik8s_tcp_connects_retransmitted" ["origin", "source_cluster", "target_cluster", "client", "class", "direction"]
        "Established connections whose SYN (initiator) or SYN-ACK (acceptor) was sent more than once.";
    TCP_SYN_RETRANSMITS: Counter "aggrik8s_tcp_syn_retransmits" ["origin", "source_cluster", "target_cluster", "client", "class", "direction"]
        "SYN (initiator) or SYN-ACK (acceptor) segments sent again.";
    TCP_RETRANSMITS: Counter "aggrik8s_tcp_retransmits" ["origin", "source_cluster", "target_cluster", "client", "class", "direction"]
        "Segments sent again after the handshake.";
    TCP_RTOS: Counter "aggrik8s_tcp_rtos" ["origin", "source_cluster", "target_cluster", "client", "class", "direction"]
        "Retransmission timeouts, those of the SYN included.";
    TCP_RESETS: Counter "aggrik8s_tcp_resets" ["origin", "source_cluster", "target_cluster", "client", "class", "direction", "by"]
        "Established connections that ended with a reset, by us (local) or by the peer. Resets of our own probes are not counted.";
    TCP_TIMED_OUT: Counter "aggrik8s_tcp_timed_out" ["origin", "source_cluster", "target_cluster", "client", "class", "direction"]
        "Established connections that the kernel gave up after its retransmits.";
    TCP_OPEN: Gauge "aggrik8s_tcp_open_connections" ["origin", "source_cluster", "target_cluster", "client", "class", "direction"]
        "Connections open now.";
    TCP_SENT: Counter "aggrik8s_tcp_sent_bytes" ["origin", "source_cluster", "target_cluster", "client", "class", "direction"]
        "Payload bytes that the peer acknowledged.";
    TCP_RECEIVED: Counter "aggrik8s_tcp_received_bytes" ["origin", "source_cluster", "target_cluster", "client", "class", "direction"]
        "Payload bytes received in order.";
    TCP_ADOPTED: Counter "aggrik8s_tcp_adopted" ["origin", "source_cluster", "target_cluster", "client", "class", "direction"]
        "Connections older than the kernel programs that were found by their packets.";
    TCP_CLAMPED: Counter "aggrik8s_tcp_clamped_samples" ["origin", "source_cluster", "target_cluster", "client", "class", "direction"]
        "Samples above the range of the histograms, counted in their last bucket.";

    PROBE_DURATION: Histogram "aggrik8s_probe_duration_seconds" ["probe", "outcome", "plane", "source_cluster", "target_cluster"]
        "First packet to full reply of background probes that were answered; for UDP, datagram to echo.";
    PROBE_ATTEMPTS: Counter "aggrik8s_probe_attempts" ["probe", "plane", "source_cluster", "target_cluster"]
        "Background probes that say something about the mesh: sent in time, and not failed in the prober itself.";
    PROBE_RESULTS: Counter "aggrik8s_probe_results" ["probe", "outcome", "plane", "source_cluster", "target_cluster"]
        "Outcomes of those probes.";
    PROBE_EXCLUDED: Counter "aggrik8s_probe_excluded" ["probe", "reason", "plane", "source_cluster", "target_cluster"]
        "Background probes that decide nothing: the prober was starved of CPU, or failed itself.";
    PROBE_SKIPPED: Counter "aggrik8s_probe_skipped" ["source_cluster"]
        "Background probes that were not sent because requested runs held the budget.";
    BURST_PROBES: Counter "aggrik8s_burst_probes" ["probe", "outcome", "source_cluster"]
        "Probes of requested runs. Kept apart, so that a verify run does not move an SLO.";

    EVENTS_PRODUCED: Counter "aggrik8s_events_produced" ["source_cluster"]
        "Kernel events that should have reached the agent.";
    EVENTS_LOST: Counter "aggrik8s_events_lost" ["source_cluster"]
        "Kernel events for which the ring buffer had no room.";
    EVENTS_SUPPRESSED: Counter "aggrik8s_events_suppressed" ["source_cluster"]
        "Events of users' connections above their budget; counted in their series all the same.";
    EVENTS_RECEIVED: Counter "aggrik8s_events_received" ["source_cluster", "origin"]
        "Kernel events that this process has read.";
    EVENTS_UNDECODABLE: Counter "aggrik8s_events_undecodable" ["source_cluster"]
        "Ring buffer records that were no events.";
    RECORDS: Gauge "aggrik8s_connection_records" ["source_cluster"]
        "Kernel records of probe connections kept for the API.";
    RECORDS_EVICTED: Counter "aggrik8s_connection_records_evicted" ["source_cluster"]
        "Records that made room for newer ones.";
    RECORDS_UNUSABLE: Counter "aggrik8s_connection_records_unusable" ["source_cluster"]
        "Events of probe connections that are no record.";

    WITNESS: Gauge "aggrik8s_kernel_witness" ["source_cluster"]
        "1 if the kernel programs are attached and their maps readable by this process.";
    PROGRAM: Gauge "aggrik8s_bpf_program_attached" ["source_cluster", "program"]
        "1 if the program is attached.";
    SERIES_FULL: Counter "aggrik8s_series_overflow" ["source_cluster"]
        "New series that found no free slot and were counted as `~other`.";
    STORAGE_FAILED: Counter "aggrik8s_socket_storage_failed" ["source_cluster"]
        "Sockets for which the kernel gave no storage; they are invisible.";
    TABLE_TAKEN: Counter "aggrik8s_socket_table_taken" ["source_cluster"]
        "Connections whose place in the table of states was another's: their state lies in socket storage. They cost more; nothing is lost.";
    FLAGS_LOST: Counter "aggrik8s_callback_flags_lost" ["source_cluster"]
        "Sockets whose callback flags another owner's program overwrote.";
    FLAGS_REFUSED: Counter "aggrik8s_callback_flags_refused" ["source_cluster"]
        "Callback flags that the kernel refused.";
    OLD_SEEN: Counter "aggrik8s_old_sockets_seen" ["source_cluster"]
        "Sockets older than the programs seen on the wire. One that stays silent is not seen.";
    OLD_COVERED: Counter "aggrik8s_old_sockets_covered" ["source_cluster"]
        "Of those, the ones that are counted from then on; covered / seen is the coverage.";
    OLD_MISSED: Counter "aggrik8s_old_sockets_missed" ["source_cluster"]
        "Sockets older than the programs that were closed while `egress` rested and had sent nothing while it watched: nothing is known of their connections.";
    BYTES_UNKNOWN: Counter "aggrik8s_connections_bytes_unknown" ["source_cluster"]
        "Connections whose end no callback told, older than the programs or with callback flags lost: they are counted as closed, the bytes since the last look are not counted.";
    EGRESS_RESTS: Gauge "aggrik8s_egress_resting" ["source_cluster"]
        "1 while the per-packet program rests: old sockets are not looked for, and bytes of connections that only receive are counted at their end.";
    RTT_UNRECOVERED: Counter "aggrik8s_ack_latency_unrecovered" ["source_cluster"]
        "Samples that an old kernel did not pass and that could not be recovered.";
    MAP_MESH_WRITES: Counter "aggrik8s_map_mesh_writes" ["source_cluster"]
        "Times that the prefixes and services of mesh.yaml were written into the kernel maps.";
    MAP_READ_ERRORS: Counter "aggrik8s_map_read_errors" ["source_cluster"]
        "Failed readings of the kernel maps.";
    MAP_WRITE_ERRORS: Counter "aggrik8s_map_write_errors" ["source_cluster"]
        "Failed updates of the kernel maps after a change of mesh.yaml.";
    MAP_HOLDERS_LOST: Counter "aggrik8s_map_holders_lost" ["source_cluster"]
        "Times that the process that holds the kernel programs ended: everything that the kernel counts begins again at 0.";
    MAP_REQUESTS_FAILED: Counter "aggrik8s_map_requests_failed" ["source_cluster"]
        "Requests to that process that brought no maps.";

    PROBER_PORTS_TAKEN: Counter "aggrik8s_prober_ports_taken" ["source_cluster"]
        "Reserved source ports that somebody else held; the next one was used.";
    PROBER_STRAYS: Counter "aggrik8s_prober_stray_datagrams" ["source_cluster"]
        "Datagrams on a probe's socket that did not answer it.";
    PROBER_STALLS: Counter "aggrik8s_prober_stalls" ["source_cluster"]
        "Times that the prober was not run when it should have been.";
    PROBER_STARVED: Counter "aggrik8s_prober_starved_samples" ["source_cluster"]
        "Samples, of any run, that such a stall or a late send covers.";
    PROBER_ABANDONED: Counter "aggrik8s_prober_abandoned" ["source_cluster"]
        "Probes of runs that were cancelled.";

    PATH_MTU_MEASUREMENTS: Counter "aggrik8s_path_mtu_measurements" ["source_cluster", "result"]
        "Path directions whose MTU was searched on request: with a figure (ok), or without (failed).";
    THROUGHPUT_MEASUREMENTS: Counter "aggrik8s_throughput_measurements" ["source_cluster", "result"]
        "Path directions whose throughput was measured on request: with a figure (ok), or without (failed).";
    PATH_MTU: Gauge "aggrik8s_path_mtu_bytes" ["source_cluster", "target_cluster", "plane"]
        "Largest IP packet that passed unfragmented when it was last measured, from source to target; the smallest of this node's paths. Absent until measured.";
    GOODPUT: Gauge "aggrik8s_path_goodput_bytes_per_second" ["source_cluster", "target_cluster", "plane"]
        "Goodput of the last transfer from source to target; the smallest of this node's paths. Absent until measured.";
    MEASURE_BUSY: Counter "aggrik8s_measurements_refused" ["source_cluster"]
        "Measurements that were not started because another one was going on.";

    RESPONDER_ANSWERED: Counter "aggrik8s_responder_answered" ["source_cluster", "protocol"]
        "Probes answered.";
    RESPONDER_TRANSFERS: Counter "aggrik8s_responder_transfers" ["source_cluster", "result"]
        "Transfers that peers asked for: done, cut, or refused because others were going on (busy) or the minute's bytes were used up (budget).";
    RESPONDER_TRANSFER_BYTES: Counter "aggrik8s_responder_transfer_bytes" ["source_cluster"]
        "Payload of those transfers, either way.";
    RESPONDER_PADDED_REFUSED: Counter "aggrik8s_responder_padded_refused" ["source_cluster"]
        "Replies longer than their request that were asked for without a valid token, or above the bound.";
    RESPONDER_IGNORED: Counter "aggrik8s_responder_ignored" ["source_cluster"]
        "Frames and requests that are no probe.";
    RESPONDER_REJECTED: Counter "aggrik8s_responder_rejected" ["source_cluster"]
        "Connections above the cap.";
    RESPONDER_EXPIRED: Counter "aggrik8s_responder_expired" ["source_cluster"]
        "Connections that ran into their deadline.";
    RESPONDER_SEND_ERRORS: Counter "aggrik8s_responder_send_errors" ["source_cluster"]
        "Replies that could not be sent.";
    RESPONDER_EVICTED: Counter "aggrik8s_responder_evicted_runs" ["source_cluster"]
        "UDP runs whose count was forgotten to make room.";

    MESH_RELOADS: Counter "aggrik8s_mesh_reloads" ["source_cluster", "result"]
        "Changes of mesh.yaml that were put in force or refused.";
    API_CALLS: Counter "aggrik8s_api_calls" ["source_cluster", "call"]
        "Calls of the API.";
    API_REFUSED: Counter "aggrik8s_api_refused_runs" ["source_cluster"]
        "Probe runs and measurements that were not started: not valid, not in mesh.yaml, or above the budget.";
    API_CONNECTIONS_REFUSED: Counter "aggrik8s_api_connections_refused" ["source_cluster"]
        "Connections to the API above the cap.";
    API_CONNECTIONS_SILENT: Counter "aggrik8s_api_connections_silent" ["source_cluster"]
        "Connections to the API that were closed because nothing came over them.";
    HTTP_REFUSED: Counter "aggrik8s_metrics_connections_refused" ["source_cluster"]
        "Connections to the metrics port above the cap, too slow or not HTTP.";

    CPU: Counter "process_cpu_seconds" [] "User and system CPU time of the agent.";
    RSS: Gauge "process_resident_memory_bytes" [] "Resident memory of the agent.";
    OPEN_FDS: Gauge "process_open_fds" [] "Open file descriptors of the agent.";
}
