//! Every fault of the line as real kernel sockets at both ends meet it, in both address families; and the line's
//! control socket under hostile input.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use socket2::SockRef;
use tests::line_rig::{LineRig, missing};
use tests::netns::skip;
use tests::sys::{path_mtu, set_mtu_discovery};

/// One rig at a time: they share two CPUs.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

const PORT: u16 = 7000;
/// How long a datagram that was not dropped may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(5);

/// A UDP socket at each end, connected to each other, with room for everything a test sends.
fn udp_pair(rig: &LineRig, ipv6: bool) -> Result<(UdpSocket, UdpSocket)> {
    let (client, server) = (
        SocketAddr::new(rig.client_address(ipv6), 6000),
        rig.server_at(ipv6, PORT),
    );
    let open = |own: SocketAddr, other: SocketAddr| -> Result<UdpSocket> {
        let socket = UdpSocket::bind(own)?;
        SockRef::from(&socket).set_recv_buffer_size(8 << 20)?;
        socket.connect(other)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(socket)
    };
    Ok((
        rig.client.run(|| open(client, server))??,
        rig.server.run(|| open(server, client))??,
    ))
}

/// Sends numbered datagrams in small groups and an unmistakable end; returns the numbers in order of arrival.
fn stream(from: &UdpSocket, to: &UdpSocket, count: u32) -> Result<Vec<u32>> {
    let mut arrived = Vec::new();
    for number in 0..count {
        from.send(&number.to_be_bytes())?;
        if number % 16 == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    to.set_read_timeout(Some(Duration::from_millis(500)))?;
    let mut bytes = [0; 16];
    loop {
        match to.recv(&mut bytes) {
            Ok(4) => arrived.push(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])),
            Ok(length) => anyhow::bail!("a datagram of {length} bytes"),
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error.into()),
        }
    }
    to.set_read_timeout(Some(PATIENCE))?;
    Ok(arrived)
}

/// Whether a datagram sent now arrives.
fn passes(from: &UdpSocket, to: &UdpSocket, content: &[u8], within: Duration) -> Result<bool> {
    from.send(content)?;
    to.set_read_timeout(Some(within))?;
    let mut bytes = vec![0; 65_536];
    let answer = to.recv(&mut bytes);
    to.set_read_timeout(Some(PATIENCE))?;
    match answer {
        Ok(length) => {
            ensure!(bytes[..length] == *content, "another datagram arrived");
            Ok(true)
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Long enough to say that a dropped datagram does not come.
const SILENCE: Duration = Duration::from_millis(300);

#[test]
fn nothing_is_lost_changed_or_reordered_without_faults() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let _alone = alone();
    let mut rig = LineRig::new(|_| {})?;
    for ipv6 in [false, true] {
        let (client, server) = udp_pair(&rig, ipv6)?;
        assert_eq!(
            stream(&client, &server, 2000)?,
            (0..2000).collect::<Vec<_>>()
        );
        assert_eq!(
            stream(&server, &client, 2000)?,
            (0..2000).collect::<Vec<_>>()
        );
    }
    let (out, back) = rig.counts()?;
    assert!(
        out.packets >= 4000 && back.packets >= 4000,
        "{out:?} {back:?}"
    );
    assert_eq!(
        (out.dropped.total(), out.delayed, out.duplicated),
        (0, 0, 0)
    );
    rig.ensure_sound()
}

#[test]
fn a_blackhole_is_one_directed() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let _alone = alone();
    let mut rig = LineRig::new(|_| {})?;
    for ipv6 in [false, true] {
        let (client, server) = udp_pair(&rig, ipv6)?;
        let listener = rig
            .server
            .run(|| TcpListener::bind(rig.server_at(ipv6, PORT)))??;
        let connect = || {
            rig.client.run(|| {
                TcpStream::connect_timeout(&rig.server_at(ipv6, PORT), Duration::from_millis(700))
            })
        };
        assert!(
            passes(&client, &server, b"there", PATIENCE)?
                && passes(&server, &client, b"back", PATIENCE)?
        );
        connect()?.context("before the fault")?;
        let address = rig.server_at(ipv6, PORT);

        rig.set_out("hole", "blackhole")?;
        assert!(!passes(&client, &server, b"lost", SILENCE)?);
        assert!(passes(&server, &client, b"still back", PATIENCE)?);
        let refused = rig
            .client
            .run(|| TcpStream::connect_timeout(&address, Duration::from_millis(700)))?;
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::TimedOut);

        rig.clear()?;
        assert!(passes(&client, &server, b"again", PATIENCE)?);
        rig.client
            .run(|| TcpStream::connect_timeout(&address, PATIENCE))?
            .context("after the fault")?;

        rig.set_back("hole", "blackhole")?;
        assert!(passes(&client, &server, b"there", PATIENCE)?);
        assert!(!passes(&server, &client, b"lost", SILENCE)?);
        rig.clear()?;
        drop(listener);
    }
    let (out, back) = rig.counts()?;
    assert!(
        out.dropped.blackhole >= 4 && back.dropped.blackhole >= 2,
        "{out:?} {back:?}"
    );
    rig.ensure_sound()
}

#[test]
fn loss_is_as_stated_and_every_missing_datagram_is_on_the_books() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let _alone = alone();
    let mut rig = LineRig::new(|_| {})?;
    rig.set_out("loss", "loss=5%@udp")?;
    for ipv6 in [false, true] {
        let (client, server) = udp_pair(&rig, ipv6)?;
        let before = rig.counts()?.0.dropped.loss;
        let arrived = stream(&client, &server, 4000)?.len() as u64;
        // Binomial(4000, 0.05): deviation 13.8; five of them either side.
        assert!((3731..=3869).contains(&arrived), "{arrived} of 4000");
        assert_eq!(rig.counts()?.0.dropped.loss - before, 4000 - arrived);
        assert_eq!(stream(&server, &client, 500)?.len(), 500);
    }
    rig.ensure_sound()
}

#[test]
fn bad_flows_fail_always_and_good_ones_never() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let _alone = alone();
    let mut rig = LineRig::new(|_| {})?;
    rig.set_out("ecmp", "loss=flows:4")?;
    let server = rig
        .server
        .run(|| UdpSocket::bind(rig.server_at(false, PORT)))??;
    let flows: Vec<UdpSocket> = (0..64)
        .map(|index| {
            let own = SocketAddr::new(rig.client_address(false), 61_000 + index);
            let socket = rig.client.run(|| UdpSocket::bind(own))??;
            socket.connect(rig.server_at(false, PORT))?;
            Ok(socket)
        })
        .collect::<Result<_>>()?;
    server.set_read_timeout(Some(Duration::from_millis(500)))?;
    let mut rounds = Vec::new();
    for _ in 0..3 {
        for flow in &flows {
            flow.send(b"x")?;
        }
        let mut seen = BTreeSet::new();
        while let Ok((_, from)) = server.recv_from(&mut [0; 16]) {
            seen.insert(from.port());
        }
        rounds.push(seen);
    }
    assert!(rounds.iter().all(|round| *round == rounds[0]), "{rounds:?}");
    // Binomial(64, 1/4): deviation 3.5.
    assert!(
        (31..=63).contains(&rounds[0].len()),
        "{} of 64 flows work",
        rounds[0].len()
    );
    rig.ensure_sound()
}

#[test]
fn duplicates_and_reordering_arrive_as_counted() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let _alone = alone();
    let mut rig = LineRig::new(|_| {})?;
    let (client, server) = udp_pair(&rig, false)?;
    rig.set_out("twice", "duplicate=10%")?;
    let arrived = stream(&client, &server, 3000)?;
    let copies = arrived.len() as u64 - 3000;
    assert_eq!(rig.counts()?.0.duplicated, copies);
    // Binomial(3000, 0.1): deviation 16.4.
    assert!((218..=382).contains(&copies), "{copies} copies");
    assert_eq!(arrived.iter().collect::<BTreeSet<_>>().len(), 3000);
    rig.clear()?;

    rig.set_out("late", "reorder=10%:20ms")?;
    let arrived = stream(&client, &server, 3000)?;
    assert_eq!(arrived.iter().collect::<BTreeSet<_>>().len(), 3000);
    let overtaken = arrived.windows(2).filter(|pair| pair[1] < pair[0]).count();
    let held = rig.counts()?.0.reordered;
    assert!(
        (218..=382).contains(&held) && overtaken > 50,
        "{held} held, {overtaken} seen late"
    );
    rig.ensure_sound()
}

#[test]
fn an_mtu_floor_with_an_error_teaches_the_sender() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let _alone = alone();
    for (ipv6, headers) in [(false, 28), (true, 48)] {
        let mut rig = LineRig::new(|_| {})?;
        rig.set_out("floor", "mtu=1400:ptb")?;
        let (client, server) = udp_pair(&rig, ipv6)?;
        set_mtu_discovery(&client, libc::IP_PMTUDISC_DO)?;
        let big = vec![7; 1500 - headers];
        let fits = vec![8; 1400 - headers];
        assert!(passes(&client, &server, &fits, PATIENCE)?);
        assert_eq!(path_mtu(&client)?, 1500);
        client.send(&big)?;
        let deadline = Instant::now() + PATIENCE;
        while path_mtu(&client)? != 1400 {
            ensure!(
                Instant::now() < deadline,
                "path MTU still {} after the error",
                path_mtu(&client)?
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        // The error also waits at the socket; after it, the kernel refuses by itself.
        let _ = client.take_error()?;
        assert_eq!(
            client.send(&big).unwrap_err().raw_os_error(),
            Some(libc::EMSGSIZE)
        );
        assert!(passes(&client, &server, &fits, PATIENCE)?);
        // The other direction has no floor.
        set_mtu_discovery(&server, libc::IP_PMTUDISC_DO)?;
        assert!(passes(&server, &client, &big, PATIENCE)?);
        let counts = rig.counts()?.0;
        assert_eq!(
            (counts.too_big_sent, counts.dropped.mtu, counts.fragmented),
            (1, 1, 0)
        );
        rig.ensure_sound()?;
    }
    Ok(())
}

#[test]
fn a_silent_mtu_floor_swallows_and_says_nothing() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let _alone = alone();
    let mut rig = LineRig::new(|_| {})?;
    rig.set_out("floor", "mtu=1400:silent")?;
    for (ipv6, headers) in [(false, 28), (true, 48)] {
        let (client, server) = udp_pair(&rig, ipv6)?;
        set_mtu_discovery(&client, libc::IP_PMTUDISC_DO)?;
        assert!(passes(
            &client,
            &server,
            &vec![1; 1400 - headers],
            PATIENCE
        )?);
        assert!(!passes(
            &client,
            &server,
            &vec![2; 1401 - headers],
            SILENCE
        )?);
        assert_eq!(path_mtu(&client)?, 1500);
        assert!(client.take_error()?.is_none());
    }
    let counts = rig.counts()?.0;
    assert_eq!((counts.too_big_sent, counts.dropped.mtu), (0, 2));
    rig.ensure_sound()
}

#[test]
fn without_df_a_floor_fragments_and_the_kernel_reassembles() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let _alone = alone();
    let mut rig = LineRig::new(|_| {})?;
    rig.set_out("floor", "mtu=600:fragment")?;
    let (client, server) = udp_pair(&rig, false)?;
    set_mtu_discovery(&client, libc::IP_PMTUDISC_DONT)?;
    let content: Vec<u8> = (0..1472).map(|index| (index % 251) as u8).collect();
    assert!(passes(&client, &server, &content, PATIENCE)?);
    // Already fragmented by the client's kernel; the line cuts its pieces again.
    let content: Vec<u8> = (0..6000).map(|index| (index % 253) as u8).collect();
    assert!(passes(&client, &server, &content, PATIENCE)?);
    // With DF the same size is lost.
    set_mtu_discovery(&client, libc::IP_PMTUDISC_PROBE)?;
    assert!(!passes(&client, &server, &vec![9; 1472], SILENCE)?);
    let counts = rig.counts()?.0;
    assert!(
        counts.fragmented >= 5 && counts.fragments >= 2 * counts.fragmented,
        "{counts:?}"
    );
    assert_eq!(counts.dropped.mtu, 1);
    rig.ensure_sound()
}

/// Sends `length` bytes over one connection; returns how long the receiver took to have them all, or `None` at the
/// deadline.
fn transfer(
    rig: &LineRig,
    ipv6: bool,
    length: usize,
    within: Duration,
) -> Result<Option<Duration>> {
    let listener = rig
        .server
        .run(|| TcpListener::bind(rig.server_at(ipv6, 0)))??;
    let mut client = rig
        .client
        .run(|| TcpStream::connect(listener.local_addr()?))??;
    let (mut server, _) = listener.accept()?;
    server.set_read_timeout(Some(Duration::from_millis(100)))?;
    let content: Vec<u8> = (0..length).map(|index| (index % 249) as u8).collect();
    let started = Instant::now();
    let sender = {
        let content = content.clone();
        std::thread::spawn(move || {
            let result = client.write_all(&content);
            (client, result)
        })
    };
    let mut received = Vec::with_capacity(length);
    let mut buffer = vec![0; 65_536];
    while received.len() < length && started.elapsed() < within {
        match server.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => received.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
    let took = started.elapsed();
    // With a reset, so that a sender that is stuck ends.
    SockRef::from(&server).set_linger(Some(Duration::ZERO))?;
    drop(server);
    if received.len() == length {
        assert_eq!(received, content);
        drop(sender.join());
        return Ok(Some(took));
    }
    Ok(None)
}

#[test]
fn tcp_lives_with_an_mtu_error_and_stalls_without() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let _alone = alone();
    for ipv6 in [false, true] {
        let mut rig = LineRig::new(|_| {})?;
        rig.set_out("floor", "mtu=1300:silent")?;
        assert_eq!(transfer(&rig, ipv6, 200_000, Duration::from_secs(1))?, None);
        rig.set_out("floor", "mtu=1300:ptb")?;
        assert!(transfer(&rig, ipv6, 1_000_000, Duration::from_secs(20))?.is_some());
        assert!(rig.counts()?.0.too_big_sent >= 1);
        rig.ensure_sound()?;
    }
    Ok(())
}

#[test]
fn a_rate_limit_holds_and_is_used() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let _alone = alone();
    let mut rig = LineRig::new(|_| {})?;
    rig.set_out("half-speed", "rate=20mbit:64k")?;
    let mut figures = Vec::new();
    for _ in 0..4 {
        let took = transfer(&rig, false, 3_000_000, Duration::from_secs(30))?
            .context("transfer did not end")?;
        let megabits = 24.0 / took.as_secs_f64();
        // What is not payload, and the queue that starts empty, only make it less.
        ensure!(
            megabits < 20.0,
            "{megabits:.1} Mbit/s through a limit of 20"
        );
        figures.push(megabits);
        if megabits > 14.0 {
            break;
        }
    }
    assert!(
        figures.iter().any(|figure| *figure > 14.0),
        "a limit of 20 Mbit/s passed only {figures:.1?}"
    );
    assert!(rig.counts()?.0.dropped.rate > 0);
    rig.ensure_sound()
}

#[test]
fn hostile_control_input_is_answered_and_harms_nothing() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let _alone = alone();
    let mut rig = LineRig::new(|_| {})?;
    let (client, server) = udp_pair(&rig, false)?;
    let ask = |rig: &LineRig, bytes: &[u8]| -> Result<String> {
        let mut stream = rig.raw_control()?;
        // The line hangs up on a request without end; the rest cannot be written then.
        let _ = stream.write_all(bytes);
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        Ok(line)
    };
    for bytes in [
        &b"nonsense\n"[..],
        b"\n",
        b"{\"op\":\"set_fault\"}\n",
        b"{\"op\":\"clear\",\"id\":\"nobody\"}\n",
        b"\xff\xfe\x00\n",
        b"{\"op\":\"set_fault\",\"id\":\"a\",\"scope\":{\"source\":\"mars\",\"target\":\"far\"},\"rule\":\"blackhole\"}\n",
        b"{\"op\":\"set_fault\",\"id\":\"a\",\"scope\":{\"source\":\"near\",\"target\":\"far\"},\"rule\":\"loss=200%\"}\n",
        &[b'x'; 200_000],
        &[b'['; 100_000],
    ] {
        let reply = ask(&rig, bytes)?;
        assert!(reply.contains("\"error\"") && reply.contains("message"), "{reply}");
    }
    assert!(ask(&rig, &[b'x'; 200_000])?.contains("longer than"));
    // Half a request from a client that leaves; and many that say nothing: the last ones are sent away.
    rig.raw_control()?.write_all(b"{\"op\":")?;
    let mut idle: Vec<_> = (0..40).map(|_| rig.raw_control()).collect::<Result<_>>()?;
    let mut farewell = String::new();
    BufReader::new(idle.pop().context("no client")?).read_line(&mut farewell)?;
    assert!(farewell.contains("connected already"), "{farewell}");
    assert!(rig.control().list()?.is_empty());
    drop(idle);
    assert!(passes(&client, &server, b"alive", PATIENCE)?);
    rig.ensure_sound()
}

#[test]
fn a_killed_line_is_replaced_on_the_same_device() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let _alone = alone();
    let mut rig = LineRig::new(|_| {})?;
    let (client, server) = udp_pair(&rig, false)?;
    assert!(passes(&client, &server, b"one", PATIENCE)?);
    rig.kill_line()?;
    // No line, no path: not even an error.
    let gone = passes(&client, &server, b"two", SILENCE);
    assert!(
        matches!(gone, Ok(false))
            || gone.is_err_and(|error| error.to_string().contains("refused")
                || error.to_string().contains("unreachable"))
    );
    rig.start_line()?;
    let _ = client.take_error()?;
    assert!(passes(&client, &server, b"three", PATIENCE)?);
    Ok(())
}
