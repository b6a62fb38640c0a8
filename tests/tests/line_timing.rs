//! How punctual the line is, by the kernel's own packet stamps at the client's veth and by `ping`: its floor without
//! any fault, and its delays. What was measured while the line was starved is void, and counted.

use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::line_rig::{LineRig, Quantiles, missing, realtime_offset, starved_between};
use tests::netns::skip;
use tests::referee::Referee;

/// One rig at a time: they share two CPUs.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// SYN to SYN-ACK at the client's veth, in microseconds, without `floor_us`.
struct Round {
    excess: Vec<f64>,
    void: usize,
}

fn measure(rig: &mut LineRig, ipv6: bool, connections: usize, floor_us: f64) -> Result<Round> {
    let listener = rig
        .server
        .run(|| TcpListener::bind(rig.server_at(ipv6, 0)))??;
    let address = listener.local_addr()?;
    let end = listener.try_clone()?;
    let accepting = std::thread::spawn(move || while listener.accept().is_ok() {});
    let referee = Referee::start(&rig.client, "eth0")?;
    rig.client.run(|| -> Result<()> {
        for _ in 0..connections {
            let stream = TcpStream::connect_timeout(&address, Duration::from_secs(10))?;
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        }
        Ok(())
    })??;
    let offset = realtime_offset()?;
    let capture = referee.stop()?;
    capture.ensure_complete()?;
    let starved = rig.stats()?.starved;
    // A connection whose RST came before it was complete is never accepted: their number says nothing.
    socket2::SockRef::from(&end).shutdown(Shutdown::Both)?;
    let _ = accepting.join();
    let mut round = Round {
        excess: Vec::new(),
        void: 0,
    };
    let attempts = capture.attempts();
    ensure!(
        attempts.len() == connections,
        "{} attempts of {connections} seen",
        attempts.len()
    );
    for attempt in attempts {
        let answer = attempt.syn_ack_ns.context("connected without a SYN-ACK")?;
        let took = (answer - attempt.syn_ns) as f64 / 1e3;
        // Whatever the scheduler does, nothing arrives early.
        ensure!(
            took >= floor_us,
            "SYN-ACK after {took:.1} µs through a line of {floor_us} µs"
        );
        if attempt.syns > 1 || starved_between(&starved, offset, attempt.syn_ns, answer) {
            round.void += 1;
        } else {
            round.excess.push(took - floor_us);
        }
    }
    Ok(round)
}

/// Beyond two crossings at the threshold of starvation: forwarding, and stages nobody records.
const ALLOWANCE_US: f64 = 1_000.0;

/// Collects `wanted` connections that are not void, in at most four times as many attempts.
fn collect(rig: &mut LineRig, ipv6: bool, wanted: usize, floor_us: f64) -> Result<Vec<f64>> {
    let (mut valid, mut void) = (Vec::new(), 0);
    for _ in 0..4 {
        let round = measure(rig, ipv6, wanted, floor_us)?;
        valid.extend(round.excess);
        void += round.void;
        if valid.len() >= wanted / 2 {
            break;
        }
    }
    println_figures(&format!(
        "{} floor {floor_us:>8.0} µs, void {void:>3}: excess {}",
        if ipv6 { "IPv6" } else { "IPv4" },
        Quantiles::of(valid.clone()).context("every connection was void")?
    ));
    ensure!(
        valid.len() >= wanted / 2,
        "only {} of {} connections are not void",
        valid.len(),
        valid.len() + void
    );
    Ok(valid)
}

#[allow(clippy::print_stdout, reason = "a calibration shows its figures")]
fn println_figures(text: &str) {
    println!("{text}");
}

fn within(excess: &[f64], limit_us: f64) -> f64 {
    excess.iter().filter(|us| **us <= limit_us).count() as f64 / excess.len() as f64
}

#[test]
fn zero_fault_calibration_prints_the_floor() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let _alone = alone();
    let mut rig = LineRig::new(|_| {})?;
    for ipv6 in [false, true] {
        let floor = collect(&mut rig, ipv6, 300, 0.0)?;
        let allowed = 2.0 * 1_000.0 + ALLOWANCE_US;
        ensure!(
            within(&floor, allowed) >= 0.95,
            "5 % of connections took over {allowed} µs though the line was not starved"
        );
    }
    let stats = rig.stats()?;
    println_figures(&format!(
        "written late {:?}\nwoken late   {:?}\nstarved {} times, {} µs in all",
        stats.lateness,
        stats.wakeups,
        stats.starved.count,
        stats.starved.total_ns / 1000
    ));
    rig.ensure_sound()
}

#[test]
fn delays_are_kept() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let _alone = alone();
    let mut rig = LineRig::new(|_| {})?;
    for (delay_ms, connections) in [(5, 200), (20, 100), (80, 30)] {
        rig.set_out("delay", &format!("delay={delay_ms}ms"))?;
        rig.set_back("back", &format!("delay={delay_ms}ms"))?;
        for ipv6 in [false, true] {
            let excess = collect(&mut rig, ipv6, connections, 2.0 * f64::from(delay_ms) * 1e3)?;
            let allowed = 2.0 * 1_000.0 + ALLOWANCE_US;
            ensure!(
                within(&excess, allowed) >= 0.95,
                "at {delay_ms} ms, 5 % of connections were over {allowed} µs late"
            );
        }
    }
    // One direction alone, on top: half as much.
    rig.clear()?;
    rig.set_out("delay", "delay=10ms@tcp")?;
    let excess = collect(&mut rig, false, 50, 10_000.0)?;
    ensure!(
        within(&excess, 3_000.0) >= 0.95,
        "one-way delay is not one-way"
    );
    rig.ensure_sound()
}

#[test]
fn spinning_before_a_due_time_is_never_early() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let _alone = alone();
    let mut rig = LineRig::new(|config| config.timing.spin_us = 100)?;
    rig.set_out("delay", "delay=5ms")?;
    rig.set_back("back", "delay=5ms")?;
    let excess = collect(&mut rig, false, 100, 10_000.0)?;
    ensure!(
        within(&excess, 3_000.0) >= 0.95,
        "5 % of connections are late"
    );
    rig.ensure_sound()
}

#[test]
fn jitter_shows_its_two_modes() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let _alone = alone();
    let mut rig = LineRig::new(|_| {})?;
    rig.set_out("base", "delay=2ms")?;
    rig.set_out("jitter", "jitter=bimodal:20ms:30%")?;
    let excess = collect(&mut rig, false, 300, 2_000.0)?;
    let count = excess.len() as f64;
    let late = excess.iter().filter(|us| **us >= 20_000.0).count() as f64;
    let early = excess.iter().filter(|us| **us < 10_000.0).count() as f64;
    ensure!(
        early + late >= 0.97 * count,
        "{early} early, {late} late of {count}"
    );
    let deviation = (0.3 * 0.7 * count).sqrt();
    // Void rounds fall rather on long ones, hence the slack below.
    ensure!(
        (late - 0.3 * count).abs() < 5.0 * deviation,
        "{late} of {count} in the late mode of 30 %"
    );
    rig.ensure_sound()
}

/// The figures of `min/avg/max/mdev` and the replies of a run of ping.
fn ping(rig: &LineRig, target: &str, count: u32) -> Result<(f64, u32)> {
    let output = rig.client.run(|| {
        Command::new("ping")
            .args([
                "-n",
                "-q",
                "-i",
                "0.02",
                "-W",
                "2",
                "-c",
                &count.to_string(),
                target,
            ])
            .output()
    })??;
    let text = String::from_utf8_lossy(&output.stdout);
    let received = text
        .split(" received")
        .next()
        .and_then(|before| before.rsplit(' ').next())
        .and_then(|number| number.parse().ok())
        .with_context(|| format!("ping wrote: {text}"))?;
    let min = text
        .split("= ")
        .nth(1)
        .and_then(|figures| figures.split('/').next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(f64::NAN);
    Ok((min, received))
}

#[test]
fn ping_agrees() -> Result<()> {
    let no_ping = || {
        let found = Command::new("ping")
            .arg("-V")
            .output()
            .is_ok_and(|output| output.status.success());
        (!found).then(|| "`ping` is missing; install iputils-ping".to_owned())
    };
    if skip(missing().or_else(no_ping))? {
        return Ok(());
    }
    let _alone = alone();
    let mut rig = LineRig::new(|_| {})?;
    for (target, ipv6) in [("10.72.0.2", false), ("fd72::2", true)] {
        rig.set_out("delay", "delay=15ms")?;
        rig.set_back("back", "delay=25ms")?;
        let (min, received) = ping(&rig, target, 20)?;
        ensure!(
            (40.0..43.0).contains(&min) && received == 20,
            "min {min} ms, {received} of 20 (IPv6: {ipv6})"
        );
        rig.clear()?;
        rig.set_out("hole", "blackhole@icmp")?;
        ensure!(ping(&rig, target, 3)?.1 == 0, "ICMP passes a hole for ICMP");
        rig.clear()?;
        rig.set_out("loss", "loss=30%")?;
        let (_, received) = ping(&rig, target, 200)?;
        // Binomial(200, 0.3) lost: deviation 6.5.
        ensure!(
            (107..=173).contains(&received),
            "{received} of 200 at 30 % loss"
        );
        rig.clear()?;
    }
    rig.ensure_sound()
}
