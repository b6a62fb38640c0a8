//! A holder's programs live exactly as long as the holder. Agents come and go and lose no count; a holder that goes
//! takes the counts with it, and the agent says so, lives on and finds the next.

use std::collections::BTreeSet;
use std::fs;
use std::io::IoSlice;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh::AgentEndpoint;
use nix::sys::signal::Signal;
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use probe_api::Client;
use probe_common::LAYOUT;
use probe_user::hold::hello::{Hello, MAX_BYTES, PROTOCOL};
use probe_user::sys::handover;
use socket2::{Domain, SockAddr, Socket, Type};
use tests::agent::{USER, mesh_yaml};
use tests::foreign::{Foreign, Hook};
use tests::hold_rig::{BOTH, Bed, Process};
use tests::netns::skip;
use tests::probe::missing;

/// CAP_NET_ADMIN (12) and CAP_BPF (39) of linux/capability.h.
const BOUNDING: &str = "0000008000001000";
const NONE: &str = "0000000000000000";

#[test]
fn agents_lose_nothing_and_a_holders_end_is_told_and_survived() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let bed = Bed::new("holder")?;
    let mut holder = bed.hold()?;
    ensure!(
        bed.attached()? == 5,
        "{} programs attached",
        bed.attached()?
    );
    let mut agent = bed.agent()?;
    bed.ready_is(200, "\"witness\":true", &agent)?;
    bed.storm(200)?;
    counted(&bed, &agent, "far-1", 200.0)?;

    // While nobody reads, the kernel counts.
    agent.kill()?;
    bed.storm(100)?;
    let mut agent = bed.agent()?;
    bed.ready_is(200, "\"witness\":true", &agent)?;
    counted(&bed, &agent, "far-1", 300.0)?;

    // A changed mesh reaches the kernel through maps that were handed over.
    bed.write_mesh(&mesh_yaml(1).replace("far-1", "moved"))?;
    bed.wait("the new mesh is in the kernel", &agent, || {
        Ok(bed.metric("aggrik8s_map_mesh_writes_total")? == 2.0)
    })?;
    bed.storm(40)?;
    counted(&bed, &agent, "moved", 40.0)?;
    counted(&bed, &agent, "far-1", 300.0)?;

    let boot_id = boot_id(&bed)?;
    holder.kill()?;
    ensure!(bed.attached()? == 0, "programs outlived their holder");
    bed.ready_is(503, "ended, and with it the kernel programs", &agent)?;
    bed.storm(30)?;
    ensure!(
        agent.ended()?.is_none(),
        "the agent ended: {}",
        agent.said()
    );
    ensure!(bed.metric("aggrik8s_kernel_witness")? == 0.0, "a witness");
    ensure!(
        bed.metric("aggrik8s_map_holders_lost_total")? == 1.0,
        "not counted"
    );
    ensure!(
        bed.connects("moved")? == 0.0,
        "counts are told that nobody makes any more"
    );

    // The next finds the dead one's socket, and everything begins at 0.
    let mut holder = bed.hold()?;
    bed.ready_is(200, "\"witness\":true", &agent)?;
    bed.storm(50)?;
    counted(&bed, &agent, "moved", 50.0)?;
    let after = self::boot_id(&bed)?;
    ensure!(after != boot_id, "counts fell under one and the same id");

    holder.signal(Signal::SIGTERM)?;
    let begun = Instant::now();
    let status = holder.wait()?;
    let took = begun.elapsed();
    ensure!(status.code() == Some(0), "{status}: {}", holder.said());
    ensure!(took < Duration::from_secs(1), "it took {took:?} to stop");
    ensure!(
        bed.attached()? == 0 && !bed.socket().exists(),
        "something stayed"
    );
    ensure!(
        agent.ended()?.is_none(),
        "the agent ended: {}",
        agent.said()
    );
    Ok(())
}

#[test]
fn a_holder_gives_up_everything_and_serves_one_user() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let bed = Bed::new("refusal")?;
    let mut holder = bed.hold()?;
    for (field, expected) in [
        ("CapEff", NONE),
        ("CapPrm", NONE),
        ("CapInh", NONE),
        ("CapAmb", NONE),
        // What the runtime gave it cannot be taken out without another capability; nothing is gained from it.
        ("CapBnd", BOUNDING),
        ("NoNewPrivs", "1"),
        ("Uid", "0\t0\t0\t0"),
    ] {
        let seen = holder.status(field)?;
        ensure!(seen == expected, "{field} is {seen}, not {expected}");
    }
    let file = fs::metadata(bed.socket())?;
    let mode = file.permissions().mode() & 0o777;
    ensure!(
        (mode, file.uid(), file.gid()) == (0o660, 0, USER),
        "{mode:o} {}:{}",
        file.uid(),
        file.gid()
    );

    let (answered, said) = bed.ask(USER)?;
    ensure!(answered && said.starts_with("held by version"), "{said}");
    let (answered, said) = bed.ask(USER + 1)?;
    ensure!(!answered && said.contains("without a word"), "{said}");
    let (answered, said) = bed.ask_as(USER, USER + 1)?;
    ensure!(!answered && said.contains("Permission denied"), "{said}");
    // Its own user hears that it holds, and gets nothing.
    let (hello, descriptors) = received(&bed)?;
    ensure!(
        hello.maps.is_empty() && descriptors.is_empty(),
        "{hello:?} with {} descriptors",
        descriptors.len()
    );
    bed.wait("the refusal is logged", &holder, || {
        Ok(holder.said().contains("refused: not the agent's user"))
    })?;

    // A second one leaves the first alone, and nothing of its own.
    let mut second = bed.spawn_hold(BOTH, &[])?;
    let status = second.wait()?;
    let said = second.said();
    ensure!(status.code() == Some(2), "{status}: {said}");
    ensure!(said.contains("another holder serves"), "{said}");
    ensure!(holder.ended()?.is_none() && bed.attached()? == 5, "{said}");
    ensure!(bed.ask(USER)?.0, "the first serves no more");
    Ok(())
}

#[test]
fn maps_are_handed_over_and_never_a_program_or_a_link() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let bed = Bed::new("handed")?;
    let holder = bed.hold_with(&["--uid", "0"])?;
    let (hello, descriptors) = received(&bed)?;
    ensure!(
        (hello.protocol, hello.layout) == (PROTOCOL, LAYOUT),
        "{hello:?}"
    );
    let names: BTreeSet<&str> = hello.maps.iter().map(String::as_str).collect();
    ensure!(
        names == BTreeSet::from(probe_user::sys::source::NEEDED),
        "{names:?}"
    );
    ensure!(
        descriptors.len() == names.len(),
        "{} descriptors",
        descriptors.len()
    );
    for (name, descriptor) in hello.maps.iter().zip(&descriptors) {
        let path = format!("/proc/self/fdinfo/{}", descriptor.as_raw_fd());
        let info = fs::read_to_string(path)?;
        ensure!(
            info.contains("map_type:")
                && !info.contains("link_type:")
                && !info.contains("prog_type:"),
            "`{name}` is no map:\n{info}"
        );
    }
    // More connections than agents are refused, and the places of those that went are free again.
    let kept: Vec<Socket> = (0..8).map(|_| connect(&bed)).collect::<Result<_>>()?;
    for socket in &kept {
        ensure!(!message(socket)?.1.is_empty(), "too few are served");
    }
    let one_more = connect(&bed)?;
    ensure!(message(&one_more)?.1.is_empty(), "no bound on connections");
    let open = holder.descriptors()?;
    drop(kept);
    bed.wait("those that went are let go", &holder, || {
        Ok(holder.descriptors()? + 8 <= open && !received(&bed)?.1.is_empty())
    })
}

#[test]
fn what_a_holder_needs_is_named_and_nothing_stays() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let bed = Bed::new("needs")?;
    let fails = |capabilities: &[&str], more: &[&str], named: &str| -> Result<()> {
        let mut holder = bed.spawn_hold(capabilities, more)?;
        let status = holder.wait()?;
        let said = holder.said();
        ensure!(status.code() == Some(2), "{named}: {status}: {said}");
        ensure!(said.contains(named), "no `{named}` in: {said}");
        ensure!(!bed.socket().exists(), "{named}: a socket was left");
        Ok(())
    };
    fails(&["net_admin"], &[], "missing `CAP_BPF`\n")?;
    fails(&["bpf"], &[], "missing `CAP_NET_ADMIN`\n")?;
    fails(&[], &[], "missing `CAP_BPF` and `CAP_NET_ADMIN`")?;
    ensure!(bed.attached()? == 0, "programs stayed attached");

    // What lies where the socket should be is not ours to remove.
    fs::write(bed.socket(), "text")?;
    let mut holder = bed.spawn_hold(BOTH, &[])?;
    ensure!(holder.wait()?.code() == Some(2), "{}", holder.said());
    ensure!(holder.said().contains("is no socket"), "{}", holder.said());
    ensure!(fs::read_to_string(bed.socket())? == "text", "removed");
    fs::remove_file(bed.socket())?;

    // The check attaches, sees its own connection, and leaves nothing.
    let mut checked = bed.spawn_hold(BOTH, &["--check"])?;
    let status = checked.wait()?;
    let said = checked.said();
    ensure!(status.success() && said.contains("and removed"), "{said}");
    ensure!(bed.attached()? == 0 && !bed.socket().exists(), "{said}");

    Foreign::exclusive(Hook::SkbEgress, bed.rig.cgroup.path())?;
    fails(BOTH, &[], "exclusively")?;
    ensure!(bed.attached()? == 1, "only the other owner's program stays");
    Ok(())
}

/// Whoever answers at the socket instead of a holder: the agent says what is wrong, lives, and finds the holder that comes.
#[test]
fn an_agent_survives_what_is_no_holder_and_takes_the_next() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let bed = Bed::new("hostile")?;
    let listener = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
    listener.bind(&SockAddr::unix(bed.socket())?)?;
    fs::set_permissions(bed.socket(), fs::Permissions::from_mode(0o666))?;
    listener.listen(4)?;
    let null = OwnedFd::from(fs::File::open("/dev/null")?);
    let newer = Hello {
        layout: LAYOUT + 1,
        version: "99.0.0".into(),
        ..Hello::new(probe_user::sys::source::NEEDED.map(str::to_owned).into())
    };
    let broken = Hello {
        layout: LAYOUT,
        ..newer.clone()
    };
    let mut agent = bed.agent()?;
    // One after another, each until the agent says so.
    let version = format!("(version `99.0.0`) speaks layout {}", LAYOUT + 1);
    let mut open = Vec::new();
    for (answer, expected) in [
        (serde_json::to_vec(&newer)?, version.as_str()),
        (b"{}".to_vec(), "its text is none of ours"),
        (serde_json::to_vec(&broken)?, "maps that cannot be used"),
        (Vec::new(), "without a word"),
    ] {
        let (peer, _) = listener.accept()?;
        if !answer.is_empty() {
            let rights = [null.as_raw_fd(); 11];
            let control = [ControlMessage::ScmRights(&rights)];
            let text = [IoSlice::new(&answer)];
            let flags = MsgFlags::empty();
            sendmsg::<UnixAddr>(peer.as_raw_fd(), &text, &control, flags, None)?;
        }
        drop(peer);
        bed.ready_is(503, expected, &agent)?;
        open.push(agent.descriptors()?);
    }
    let (least, most) = (open.iter().min(), open.iter().max());
    ensure!(
        most.zip(least)
            .is_some_and(|(most, least)| most - least <= 2),
        "descriptors are lost: {open:?}"
    );
    ensure!(
        bed.metric("aggrik8s_map_requests_failed_total")? >= 4.0,
        "not counted"
    );
    ensure!(
        bed.metric("aggrik8s_map_holders_lost_total")? == 0.0,
        "no holder was lost"
    );
    drop(listener);
    let _holder = bed.hold()?;
    bed.ready_is(200, "\"witness\":true", &agent)?;
    ensure!(
        agent.ended()?.is_none(),
        "the agent ended: {}",
        agent.said()
    );
    Ok(())
}

/// Holders that come and go cost the agent no descriptor and no map.
#[test]
fn every_holder_that_goes_is_let_go() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let bed = Bed::new("again")?;
    let mut holder = bed.hold()?;
    let agent = bed.agent()?;
    bed.ready_is(200, "\"witness\":true", &agent)?;
    let settled = |agent: &Process| -> Result<usize> {
        // Connections of our own GETs end a moment later.
        thread::sleep(Duration::from_millis(200));
        agent.descriptors()
    };
    let before = settled(&agent)?;
    for round in 1..=3 {
        holder.kill()?;
        bed.wait("the loss is counted", &agent, || {
            Ok(bed.metric("aggrik8s_map_holders_lost_total")? == f64::from(round))
        })?;
        holder = bed.hold()?;
        bed.ready_is(200, "\"witness\":true", &agent)?;
    }
    let after = settled(&agent)?;
    ensure!(after <= before + 1, "{before} descriptors, then {after}");
    Ok(())
}

fn counted(bed: &Bed, agent: &Process, cluster: &str, count: f64) -> Result<()> {
    let what = format!("{count} connects to `{cluster}`");
    bed.wait(&what, agent, || Ok(bed.connects(cluster)? == count))
        .with_context(|| format!("{} counted", bed.connects(cluster).unwrap_or(f64::NAN)))
}

/// What `verify` tells a restart by.
fn boot_id(bed: &Bed) -> Result<String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let endpoint = AgentEndpoint::Unix(bed.api().display().to_string());
        let client = Client::connect(&endpoint, None).await?;
        Ok(client.observe().await?.boot_id)
    })
}

fn connect(bed: &Bed) -> Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
    socket.connect(&SockAddr::unix(bed.socket())?)?;
    Ok(socket)
}

/// The message that comes, and what came with it; no text if the other side closed.
fn message(socket: &Socket) -> Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut text = vec![0; MAX_BYTES];
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match handover::receive(socket, &mut text) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                ensure!(Instant::now() < deadline, "no answer");
                thread::sleep(Duration::from_millis(5));
            }
            received => {
                let received = received?;
                ensure!(!received.cut, "it was cut");
                text.truncate(received.bytes);
                return Ok((text, received.descriptors));
            }
        }
    }
}

/// What the holder gives this very process, which is root.
fn received(bed: &Bed) -> Result<(Hello, Vec<OwnedFd>)> {
    let (text, descriptors) = message(&connect(bed)?)?;
    Ok((serde_json::from_slice(&text)?, descriptors))
}
