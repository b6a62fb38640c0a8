//! `load --check`, `hold --check`: the programs in a scratch cgroup, one connection of our own, and the counts and
//! records it must leave. Everything made for it is removed again.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use probe_common::{Counter, Direction, Event, Origin, Outcome};
use socket2::{Domain, Protocol, Socket, Type};

use super::{
    cgroup,
    loader::{self, LoadError, LoadReport, Options},
    maps::{Maps, MapsError},
};

/// Why the check did not pass.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error("cannot use a scratch cgroup at `{}`", path.display())]
    Cgroup { path: PathBuf, source: io::Error },
    #[error("cannot make a connection over loopback")]
    Connection(#[source] io::Error),
    #[error("cannot read what was counted")]
    Maps(#[from] MapsError),
    #[error("the programs are attached but did not see a connection: {0}")]
    NotCounted(String),
}

impl CheckError {
    /// What to do next, if we know.
    pub fn hint(&self) -> Option<std::borrow::Cow<'static, str>> {
        match self {
            Self::Load(error) => error.hint(),
            Self::Cgroup { .. } => Some(
                "the check makes a child of `--cgroup` and moves itself there: both must be writable (in a container: mount the host's cgroup2 read-write)"
                    .into(),
            ),
            Self::Connection(_) => Some("is `lo` up in this network namespace?".into()),
            Self::Maps(error) => error.hint().map(Into::into),
            Self::NotCounted(_) => Some(
                "another owner's cgroup programs may run instead of ours: `bpftool cgroup tree`".into(),
            ),
        }
    }
}

/// A child of the cgroup that holds this process while it lives.
struct Scratch {
    path: PathBuf,
    home: PathBuf,
}

impl Scratch {
    fn enter(parent: &Path) -> Result<Self, CheckError> {
        let path = parent.join(format!("aggrik8s-check-{}", std::process::id()));
        let failed = |source| CheckError::Cgroup {
            path: path.clone(),
            source,
        };
        let home = home().map_err(failed)?;
        fs::create_dir(&path).map_err(failed)?;
        let scratch = Self {
            path: path.clone(),
            home,
        };
        join(&path).map_err(failed)?;
        Ok(scratch)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = join(&self.home).and_then(|()| fs::remove_dir(&self.path)) {
            tracing::warn!(%error, path = %self.path.display(), "scratch cgroup not removed");
        }
    }
}

fn join(cgroup: &Path) -> io::Result<()> {
    fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string())
}

/// The v2 cgroup of this process, as a folder.
fn home() -> io::Result<PathBuf> {
    let mount = cgroup::cgroup2_mount()?
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no cgroup2 mount"))?;
    let own = fs::read_to_string("/proc/self/cgroup")?;
    let path = own
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .unwrap_or("");
    Ok(mount.join(path))
}

/// Runs the check with these options in a cgroup of its own, and where pins are used in a folder of its own beside them.
pub fn run(options: &Options, pin_dir: Option<&Path>) -> Result<LoadReport, CheckError> {
    super::preflight::check(&options.cgroup, pin_dir).map_err(LoadError::from)?;
    let scratch = Scratch::enter(&options.cgroup)?;
    let options = Options {
        cgroup: scratch.path.clone(),
        ..options.clone()
    };
    let Some(pin_dir) = pin_dir else {
        let held = loader::hold(&options)?;
        observe(&held.maps()?, &options)?;
        return Ok(held.report.clone());
    };
    let beside = pin_dir
        .ancestors()
        .skip(1)
        .find(|path| path.exists())
        .unwrap_or(Path::new("/"));
    let pins = beside.join(format!("aggrik8s-check-{}", std::process::id()));
    let report = loader::load(&options, &pins)?;
    let seen = Maps::open(&pins)
        .map_err(CheckError::from)
        .and_then(|maps| observe(&maps, &options));
    let removed = loader::unload(&pins);
    seen?;
    removed?;
    Ok(report)
}

fn observe(maps: &Maps, options: &Options) -> Result<(), CheckError> {
    let mut reader = maps.events()?;
    let (client, server) = connect(options).map_err(CheckError::Connection)?;
    let mut events: Vec<Event> = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        while let Some(event) = reader.try_next() {
            events.push(event);
        }
        let missing = missing(maps, &events, client, server)?;
        match missing {
            None => return Ok(()),
            Some(what) if Instant::now() > deadline => return Err(CheckError::NotCounted(what)),
            Some(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// One connection from a probe's source port, ended by a linger-0 close, as probes do.
fn connect(options: &Options) -> io::Result<(SocketAddr, SocketAddr)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let server = listener.local_addr()?;
    let mut refused = io::Error::from(io::ErrorKind::AddrInUse);
    for port in options.probe_ports.clone() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        let client = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        match socket.bind(&client.into()) {
            Ok(()) => {
                socket.set_linger(Some(Duration::ZERO))?;
                socket.connect(&server.into())?;
                let _accepted = listener.accept()?;
                return Ok((client, server));
            }
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

/// What is not there yet, for a person; `None` when all is.
fn missing(
    maps: &Maps,
    events: &[Event],
    client: SocketAddr,
    server: SocketAddr,
) -> Result<Option<String>, MapsError> {
    for (direction, local) in [
        (Direction::Initiator, client.port()),
        (Direction::Acceptor, server.port()),
    ] {
        let counted: u64 = maps
            .series()?
            .iter()
            .filter(|(key, _)| key.direction() == direction && key.origin() == Origin::Probe)
            .map(|(_, data)| data.counter(Counter::Established))
            .sum();
        if counted != 1 {
            return Ok(Some(format!(
                "{counted} instead of 1 connection counted as {direction:?}"
            )));
        }
        let recorded = events.iter().any(|event| {
            event.outcome() == Some(Outcome::Established)
                && event.direction == direction as u8
                && event.local_port == local
        });
        if !recorded {
            return Ok(Some(format!(
                "no record of the connection as {direction:?}"
            )));
        }
    }
    Ok(None)
}
