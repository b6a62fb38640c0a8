//! The whole pipeline against simulated time: what each fault does to a stream of packets, and that none is lost from
//! the books.

use etherparse::{IcmpEchoHeader, Icmpv4Type, PacketBuilder, SlicedPacket, TransportSlice};

use super::super::config::{Profile, QueueLimit};
use super::super::fault::Scope;
use super::super::samples;
use super::*;

const US: Nanos = 1_000;
const MS: Nanos = 1_000_000;

fn scope(source: &str, target: &str) -> Scope {
    Scope::new(source.parse().unwrap(), target.parse().unwrap())
}

/// A line with these rules as faults from `east` to `west`.
fn with_faults(rules: &[&str]) -> Pipeline {
    let mut pipeline = Pipeline::new(samples::config()).unwrap();
    for (index, rule) in rules.iter().enumerate() {
        let fault = ActiveFault {
            id: format!("f{index}"),
            scope: scope("east", "west"),
            rule: rule.parse().unwrap(),
        };
        pipeline.set_fault(fault).unwrap();
    }
    pipeline
}

/// Runs until nothing is under way; every packet is written exactly when due.
fn drain(pipeline: &mut Pipeline) -> Vec<Departure> {
    let mut all = Vec::new();
    while let Some(due) = pipeline.next_due() {
        while let Some(departure) = pipeline.pop_due(due) {
            pipeline.written(&departure, due);
            all.push(departure);
        }
    }
    all
}

/// `count` packets, 1 ms apart, each with its number as source port. Returns (number, due − sent).
fn stream(pipeline: &mut Pipeline, count: u16) -> Vec<(u16, Nanos)> {
    for number in 0..count {
        pipeline.push(Nanos::from(number) * MS, samples::udp4(number, 9, 100));
    }
    let received = drain(pipeline).into_iter().map(|departure| {
        let number = view(&departure.packet, &[]).unwrap().outer.source_port;
        (number, departure.due - Nanos::from(number) * MS)
    });
    received.collect()
}

fn counts(pipeline: &Pipeline, source: &str, target: &str) -> PathCounts {
    let stats = pipeline.stats(0);
    let path = stats
        .paths
        .iter()
        .find(|path| path.source.to_string() == source && path.target.to_string() == target);
    path.unwrap_or_else(|| panic!("no packets {source} -> {target}"))
        .counts
        .clone()
}

/// Every packet is delivered, dropped for a stated reason, or still under way.
fn assert_balanced(pipeline: &Pipeline) {
    let stats = pipeline.stats(0);
    let total = |of: &dyn Fn(&PathCounts) -> u64| {
        stats.paths.iter().map(|path| of(&path.counts)).sum::<u64>()
    };
    assert_eq!(
        total(&|c| c.packets + c.duplicated + c.fragments - c.fragmented),
        total(&|c| c.delivered + c.dropped.total()) + stats.queued_packets,
    );
}

#[test]
fn without_rules_packets_leave_unchanged_at_once() {
    let mut pipeline = with_faults(&[]);
    let packets = [
        samples::udp4(1, 2, 100),
        samples::tcp4(3, 4, 0),
        samples::udp6(5, 6, 1200),
    ];
    for packet in &packets {
        assert_eq!(pipeline.push(7, packet.clone()), Outcome::Queued(1));
    }
    let out = drain(&mut pipeline);
    assert!(out.iter().all(|departure| departure.due == 7));
    assert_eq!(
        out.into_iter()
            .map(|departure| departure.packet)
            .collect::<Vec<_>>(),
        packets
    );
    let counts = counts(&pipeline, "east/e-1", "west/w-1");
    assert_eq!(
        (counts.packets, counts.delivered, counts.delayed),
        (3, 3, 0)
    );
    assert_eq!(counts.bytes, counts.delivered_bytes);
    assert_balanced(&pipeline);
}

#[test]
fn delays_of_profile_and_faults_add_up() {
    let mut config = samples::config();
    config.profiles = vec![Profile {
        scope: scope("*", "*"),
        rules: vec!["delay=2ms".parse().unwrap()],
    }];
    let mut pipeline = Pipeline::new(config).unwrap();
    assert!(
        stream(&mut pipeline, 10)
            .iter()
            .all(|(_, took)| *took == 2 * MS)
    );
    for (id, rule) in [
        ("a", "delay=50ms"),
        ("b", "delay=5ms@udp"),
        ("c", "delay=100ms@tcp"),
    ] {
        let fault = ActiveFault {
            id: id.to_owned(),
            scope: scope("east/e-1", "west"),
            rule: rule.parse().unwrap(),
        };
        pipeline.set_fault(fault).unwrap();
    }
    assert!(
        stream(&mut pipeline, 10)
            .iter()
            .all(|(_, took)| *took == 57 * MS)
    );
    assert_eq!(counts(&pipeline, "east/e-1", "west/w-1").delayed, 20);
}

#[test]
fn a_blackhole_takes_one_direction_of_one_pair() {
    let mut pipeline = with_faults(&["blackhole"]);
    assert_eq!(
        pipeline.push(0, samples::udp4(1, 2, 10)),
        Outcome::Dropped(DropReason::Blackhole)
    );
    let back = PacketBuilder::ipv4(samples::WEST, samples::EAST, 64).udp(2, 1);
    let mut bytes = Vec::new();
    back.write(&mut bytes, &[0; 10]).unwrap();
    assert_eq!(pipeline.push(0, bytes), Outcome::Queued(1));
    drain(&mut pipeline);
    assert_eq!(
        counts(&pipeline, "east/e-1", "west/w-1").dropped.blackhole,
        1
    );
    assert_eq!(counts(&pipeline, "west/w-1", "east/e-1").delivered, 1);
    assert!(pipeline.clear_fault("f0"));
    assert_eq!(
        pipeline.push(0, samples::udp4(1, 2, 10)),
        Outcome::Queued(1)
    );
}

#[test]
fn loss_by_protocol_leaves_the_others_alone() {
    let mut pipeline = with_faults(&["loss=100%@udp"]);
    assert_eq!(
        pipeline.push(0, samples::udp4(1, 2, 10)),
        Outcome::Dropped(DropReason::Loss)
    );
    assert_eq!(
        pipeline.push(0, samples::udp6(1, 2, 10)),
        Outcome::Dropped(DropReason::Loss)
    );
    assert_eq!(
        pipeline.push(0, samples::tcp4(1, 2, 10)),
        Outcome::Queued(1)
    );
}

#[test]
fn five_percent_loss_is_five_percent() {
    let mut pipeline = with_faults(&["loss=5%"]);
    let arrived = stream(&mut pipeline, 20_000).len();
    // Binomial(20000, 0.05): deviation 30.8.
    assert!((18_877..=19_123).contains(&arrived), "{arrived} of 20000");
    assert_eq!(
        counts(&pipeline, "east/e-1", "west/w-1").dropped.loss,
        20_000 - arrived as u64
    );
    assert_balanced(&pipeline);
}

#[test]
fn jitter_keeps_the_order_within_a_connection() {
    let mut pipeline = with_faults(&["jitter=uniform:20ms"]);
    for index in 0..1000 {
        pipeline.push(index * MS, samples::udp4(7, 8, index as usize % 50));
    }
    let lengths: Vec<usize> = drain(&mut pipeline)
        .iter()
        .map(|departure| departure.packet.len() - 28)
        .collect();
    assert_eq!(
        lengths,
        (0..1000).map(|index| index % 50).collect::<Vec<_>>()
    );
}

#[test]
fn jitter_across_connections_has_the_named_quantiles() {
    let mut pipeline = with_faults(&["jitter=bimodal:20ms:10%", "delay=1ms"]);
    let took: Vec<Nanos> = stream(&mut pipeline, 5000)
        .into_iter()
        .map(|(_, took)| took)
        .collect();
    let late = took.iter().filter(|took| **took == 21 * MS).count();
    let early = took.iter().filter(|took| **took == MS).count();
    assert!(
        (400..=600).contains(&late) && late + early == 5000,
        "{late} late, {early} early"
    );
}

#[test]
fn a_delayed_path_holds_up_no_other() {
    let mut pipeline = with_faults(&["delay=50ms"]);
    for number in 1_000..21_000 {
        let sent = Nanos::from(number) * MS / 10;
        pipeline.push(sent, samples::udp4(number, 9, 100));
        // The way back: ends exchanged, which leaves both checksums as they are.
        let mut back = samples::udp4(number, 9, 100);
        back[12..20].rotate_left(4);
        back[20..24].rotate_left(2);
        pipeline.push(sent, back);
    }
    let took: Vec<Nanos> = drain(&mut pipeline)
        .iter()
        .filter_map(|departure| {
            let ports = view(&departure.packet, &[]).unwrap().outer;
            let back = ports.source_port == 9;
            back.then(|| departure.due - Nanos::from(ports.target_port) * MS / 10)
        })
        .collect();
    let late = took.iter().filter(|took| **took > 0).count();
    assert_eq!((took.len(), late), (20_000, 0));
}

#[test]
fn reordered_packets_are_overtaken_and_only_they() {
    let mut pipeline = with_faults(&["reorder=10%:5ms", "delay=3ms"]);
    let mut held = Vec::new();
    for index in 0..2000_u64 {
        pipeline.push(index * MS, samples::tcp4(7, 8, index as usize));
    }
    let mut last = 0;
    for departure in drain(&mut pipeline) {
        let index = departure.packet.len() as u64 - 40;
        match departure.due - index * MS {
            took if took == 3 * MS => {
                assert!(index >= last, "{index} after {last} without being held");
                last = index;
            }
            took => {
                assert_eq!(took, 8 * MS);
                held.push(index);
            }
        }
    }
    // Binomial(2000, 0.1): deviation 13.4.
    assert!((146..=254).contains(&held.len()), "{} held", held.len());
    assert_eq!(
        counts(&pipeline, "east/e-1", "west/w-1").reordered,
        held.len() as u64
    );
}

#[test]
fn duplicates_are_whole_copies() {
    let mut pipeline = with_faults(&["duplicate=20%"]);
    let received = stream(&mut pipeline, 5000);
    let copies = received.len() - 5000;
    // Binomial(5000, 0.2): deviation 28.3.
    assert!((887..=1113).contains(&copies), "{copies} copies");
    assert!(received.windows(2).all(|pair| pair[1].0 - pair[0].0 <= 1));
    assert_eq!(
        counts(&pipeline, "east/e-1", "west/w-1").duplicated,
        copies as u64
    );
    assert_balanced(&pipeline);
}

#[test]
fn a_rate_limit_delays_then_drops_and_is_shared_by_all_it_covers() {
    let mut pipeline = with_faults(&["rate=10mbit:15000:0"]);
    // 1500-byte packets take 1.2 ms each; both protocols fill the same queue.
    let mut sent = 0;
    for index in 0..1000_u64 {
        let packet = if index % 2 == 0 {
            samples::udp4(1, 2, 1472)
        } else {
            samples::tcp4(3, 4, 1460)
        };
        sent += u64::from(pipeline.push(index * 600 * US, packet) == Outcome::Queued(1));
    }
    // Offered 20 Mbit/s for 0.6 s: half passes, and the queue of ten.
    assert!((495..=515).contains(&sent), "{sent} of 1000");
    let last = drain(&mut pipeline).last().unwrap().due;
    assert!((600 * MS..=615 * MS).contains(&last), "{last}");
    assert_eq!(
        counts(&pipeline, "east/e-1", "west/w-1").dropped.rate,
        1000 - sent
    );
    assert_balanced(&pipeline);
}

#[test]
fn an_mtu_floor_fragments_answers_or_swallows() {
    let big = [
        samples::udp4(1, 2, 1472),
        samples::udp4_df(1, 2, 1472),
        samples::udp6(1, 2, 1452),
    ];
    // Per mode: pieces of the packet without DF, and whether the other two are answered.
    for (mode, pieces, answered) in [
        ("ptb", 2, true),
        ("ptb-drop", 0, true),
        ("silent", 0, false),
        ("fragment", 2, false),
    ] {
        let mut pipeline = with_faults(&[&format!("mtu=1400:{mode}"), "delay=5ms"]);
        let expected = if pieces > 0 {
            Outcome::Queued(pieces)
        } else {
            Outcome::Dropped(DropReason::Mtu)
        };
        assert_eq!(pipeline.push(0, big[0].clone()), expected, "{mode}");
        assert_eq!(drain(&mut pipeline).len(), pieces, "{mode}");
        for packet in &big[1..] {
            assert_eq!(
                pipeline.push(0, packet.clone()),
                Outcome::Dropped(DropReason::Mtu),
                "{mode}"
            );
            let answers = drain(&mut pipeline);
            assert_eq!(answers.len(), usize::from(answered), "{mode}");
            // Back to the source, at once, not through the path's delay.
            for answer in answers {
                assert_eq!(answer.due, 0);
                let target = view(&answer.packet, &[]).unwrap().outer.target;
                assert_eq!(target, view(packet, &[]).unwrap().outer.source);
            }
        }
        assert_eq!(
            counts(&pipeline, "east/e-1", "west/w-1").too_big_sent,
            if answered { 2 } else { 0 }
        );
        // What fits passes whole, to the byte.
        for packet in [samples::udp4_df(1, 2, 1372), samples::udp6(1, 2, 1352)] {
            assert_eq!(packet.len(), 1400);
            assert_eq!(pipeline.push(0, packet), Outcome::Queued(1), "{mode}");
        }
        drain(&mut pipeline);
        assert_balanced(&pipeline);
    }
}

#[test]
fn two_floors_leave_the_lower() {
    let mut pipeline = with_faults(&["mtu=1400:ptb", "mtu=600:fragment"]);
    assert_eq!(
        pipeline.push(0, samples::udp4(1, 2, 1472)),
        Outcome::Queued(4)
    );
    assert!(
        drain(&mut pipeline)
            .iter()
            .all(|departure| departure.packet.len() <= 600)
    );
    assert_balanced(&pipeline);
}

#[test]
fn icmp_can_be_singled_out() {
    let mut pipeline = with_faults(&["blackhole@icmp"]);
    let echo = PacketBuilder::ipv4(samples::EAST, samples::WEST, 64)
        .icmpv4(Icmpv4Type::EchoRequest(IcmpEchoHeader { id: 1, seq: 1 }));
    let mut bytes = Vec::new();
    echo.write(&mut bytes, &[1, 2, 3]).unwrap();
    assert_eq!(
        pipeline.push(0, bytes),
        Outcome::Dropped(DropReason::Blackhole)
    );
    assert_eq!(
        pipeline.push(0, samples::udp4(1, 2, 10)),
        Outcome::Queued(1)
    );
}

#[test]
fn strangers_link_scope_and_garbage_are_counted_apart() {
    let udp = |source: [u8; 4], target: [u8; 4]| {
        let mut bytes = Vec::new();
        PacketBuilder::ipv4(source, target, 64)
            .udp(1, 2)
            .write(&mut bytes, &[0; 10])
            .unwrap();
        bytes
    };
    let mut config = samples::config();
    for unknown in [UnknownAction::Drop, UnknownAction::Pass] {
        config.unknown = unknown;
        let mut pipeline = Pipeline::new(config.clone()).unwrap();
        let expected = match unknown {
            UnknownAction::Drop => Outcome::Dropped(DropReason::Unknown),
            UnknownAction::Pass => Outcome::Queued(1),
        };
        assert_eq!(pipeline.push(0, udp(samples::EAST, [8, 8, 8, 8])), expected);
        assert_eq!(pipeline.push(0, udp([8, 8, 8, 8], samples::EAST)), expected);
        let multicast = udp(samples::EAST, [224, 0, 0, 251]);
        assert_eq!(
            pipeline.push(0, multicast),
            Outcome::Dropped(DropReason::LinkScope)
        );
        assert_eq!(
            pipeline.push(0, vec![0; 3]),
            Outcome::Dropped(DropReason::Malformed)
        );
        let counters = pipeline.stats(0).counters;
        assert_eq!(
            (counters.unknown, counters.link_scope, counters.malformed),
            (2, 1, 1)
        );
    }
}

#[test]
fn what_does_not_fit_under_way_is_counted() {
    let mut config = samples::config();
    config.queue = QueueLimit {
        packets: 10,
        bytes: 1 << 20,
    };
    config.profiles = vec![Profile {
        scope: scope("*", "*"),
        rules: vec!["delay=1s".parse().unwrap()],
    }];
    let mut pipeline = Pipeline::new(config).unwrap();
    let outcomes: Vec<Outcome> = (0..12)
        .map(|port| pipeline.push(0, samples::udp4(port, 2, 10)))
        .collect();
    assert_eq!(outcomes[9], Outcome::Queued(1));
    assert_eq!(outcomes[10..], [Outcome::Dropped(DropReason::Overflow); 2]);
    assert_balanced(&pipeline);
    drain(&mut pipeline);
    assert_eq!(
        counts(&pipeline, "east/e-1", "west/w-1").dropped.overflow,
        2
    );
    assert_balanced(&pipeline);
}

#[test]
fn the_same_seed_gives_the_same_line_and_another_fault_does_not_disturb_it() {
    let rules = ["loss=10%", "jitter=normal:5ms:2ms", "duplicate=5%"];
    let run = |extra: Option<&str>| {
        let mut pipeline = with_faults(&rules);
        if let Some(rule) = extra {
            let rule = rule.parse().unwrap();
            pipeline
                .set_fault(ActiveFault {
                    id: "x".to_owned(),
                    scope: scope("east", "west"),
                    rule,
                })
                .unwrap();
        }
        stream(&mut pipeline, 1000)
    };
    assert_eq!(run(None), run(None));
    // Draws of its own: nobody else's dice are touched.
    assert_eq!(run(None), run(Some("loss=50%@tcp")));
}

#[test]
fn lateness_and_starvation_are_recorded() {
    let mut pipeline = with_faults(&["delay=5ms"]);
    for port in 0..100 {
        pipeline.push(Nanos::from(port) * MS, samples::udp4(port, 2, 10));
    }
    let mut written = 0;
    while let Some(due) = pipeline.next_due() {
        // All 100 µs late, the last 30 ms.
        let late = if written == 99 { 30 * MS } else { 100 * US };
        let departure = pipeline.pop_due(due).unwrap();
        pipeline.written(&departure, due + late);
        written += 1;
    }
    let stats = pipeline.stats(200 * MS);
    assert_eq!((stats.lateness.count, stats.starved.count), (100, 1));
    assert!(
        (stats.lateness.p50_us - 100.0).abs() < 2.0 && stats.lateness.max_us >= 30_000.0,
        "{:?}",
        stats.lateness
    );
    assert!(
        stats.starved.overlaps(110 * MS, 111 * MS) && !stats.starved.overlaps(50 * MS, 103 * MS)
    );
    pipeline.woke(300 * MS, 305 * MS);
    assert!(pipeline.stats(0).starved.overlaps(302 * MS, 303 * MS));
    pipeline.woke(400 * MS, 400 * MS + 10 * US);
    assert_eq!(pipeline.stats(0).starved.count, 2);
    assert_eq!(pipeline.stats(0).wakeups.count, 2);
}

#[test]
fn random_packets_never_unbalance_the_books() {
    let mut pipeline = with_faults(&[
        "loss=3%",
        "mtu=500:ptb",
        "rate=20mbit",
        "jitter=pareto:1ms:2:20ms",
        "reorder=5%:1ms",
        "duplicate=5%",
    ]);
    let mut state = 1;
    for index in 0..20_000_u64 {
        state = super::super::packet::finish(state + index);
        let len = (state % 1400) as usize;
        let port = (state >> 20) as u16;
        let mut packet = match state >> 62 {
            0 => samples::udp4(port, 2, len),
            1 => samples::udp4_df(port, 2, len),
            2 => samples::vxlan4(port, &samples::tcp4(port, 80, len % 600)),
            _ => samples::udp6(port, 2, len),
        };
        // Now and then a few bytes are wrong, length and options included.
        if state % 5 == 0 {
            let at = (state >> 40) as usize % packet.len();
            packet[at] ^= (state >> 8) as u8;
        }
        pipeline.push(index * 300 * US, packet);
        while let Some(departure) = pipeline.pop_due(index * 300 * US) {
            assert!(departure.packet.len() <= 1280);
            pipeline.written(&departure, index * 300 * US);
        }
    }
    drain(&mut pipeline);
    assert_balanced(&pipeline);
}

#[test]
fn fragments_of_udp_still_carry_its_checksum() {
    let mut pipeline = with_faults(&["mtu=800:ptb"]);
    pipeline.push(0, samples::udp4(1, 2, 1472));
    let fragments = drain(&mut pipeline);
    let mut whole = fragments[0].packet[20..].to_vec();
    whole.extend_from_slice(&fragments[1].packet[20..]);
    let original = samples::udp4(1, 2, 1472);
    let sliced = SlicedPacket::from_ip(&original).unwrap();
    let Some(TransportSlice::Udp(udp)) = sliced.transport else {
        panic!("not UDP")
    };
    assert_eq!(whole, udp.slice());
    let checksum = udp
        .to_header()
        .calc_checksum_ipv4_raw(samples::EAST, samples::WEST, &whole[8..])
        .unwrap();
    assert_eq!(udp.checksum(), checksum);
}

#[test]
fn corrupted_and_reset_packets_are_counted_and_keep_their_length() {
    let mut pipeline = with_faults(&["corrupt=100%@inner-udp", "reset=100%"]);
    let packets = [
        samples::udp4(1, 2, 100),
        samples::tcp4(3, 4, 50),
        samples::tcp4(3, 4, 0),
    ];
    for packet in &packets {
        pipeline.push(0, packet.clone());
    }
    let out = drain(&mut pipeline);
    let changed: Vec<bool> = out
        .iter()
        .zip(&packets)
        .map(|(departure, packet)| {
            assert_eq!(departure.packet.len(), packet.len());
            departure.packet != *packet
        })
        .collect();
    assert_eq!(changed, [true, true, false]);
    let counts = counts(&pipeline, "east/e-1", "west/w-1");
    assert_eq!((counts.corrupted, counts.reset), (1, 1));
    assert_balanced(&pipeline);
}

#[test]
fn only_the_first_packet_of_a_flow_waits_for_its_setup() {
    let mut pipeline = with_faults(&["setup=60ms"]);
    let mut delays = Vec::new();
    // Two flows, then the first again while it is known, and after it has been idle for long.
    for (at, port) in [(0, 1), (100, 2), (200, 1), (300, 2), (40_000, 1)] {
        pipeline.push(at * MS, samples::udp4(port, 9, 10));
        for departure in drain(&mut pipeline) {
            delays.push((departure.due - at * MS) / MS);
        }
    }
    assert_eq!(delays, [60, 60, 0, 0, 60]);
}
