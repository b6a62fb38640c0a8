//! What runs in the pods of a test's node, as a static program without any other file: `pod pause` holds a sandbox,
//! `pod serve PORT` answers HTTP, `/mounts` with its own mounts and anything else with the caller's address,
//! `pod get ADDRESS:PORT PATH` asks another one.
#![expect(clippy::print_stdout, reason = "a pod's log is its standard output")]

use std::io::{BufRead, BufReader, Error, Read, Result, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;
use std::{env, fs, thread};

const LIMIT: Duration = Duration::from_secs(10);

fn main() -> Result<()> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["pause"] => loop {
            thread::park();
        },
        ["serve", port] => serve(port.parse().map_err(Error::other)?),
        ["get", address, path] => get(address.parse().map_err(Error::other)?, path),
        _ => Err(Error::other(
            "usage: pod pause | serve PORT | get ADDRESS:PORT PATH",
        )),
    }
}

fn serve(port: u16) -> Result<()> {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))?;
    println!("serving on port {port}");
    for connection in listener.incoming() {
        // Whoever goes away early is no reason to stop.
        let _ = connection.and_then(answer);
    }
    Ok(())
}

fn answer(mut connection: TcpStream) -> Result<()> {
    connection.set_read_timeout(Some(LIMIT))?;
    let mut request = BufReader::new(connection.try_clone()?).lines();
    let first = request.next().transpose()?.unwrap_or_default();
    while request
        .next()
        .transpose()?
        .is_some_and(|line| !line.is_empty())
    {}
    let body = match first.split(' ').nth(1) {
        Some("/mounts") => fs::read_to_string("/proc/self/mounts")?,
        _ => connection.peer_addr()?.ip().to_canonical().to_string(),
    };
    let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length:";
    write!(connection, "{head} {}\r\n\r\n{body}", body.len())
}

fn get(address: SocketAddr, path: &str) -> Result<()> {
    let mut connection = TcpStream::connect_timeout(&address, LIMIT)?;
    connection.set_read_timeout(Some(LIMIT))?;
    write!(
        connection,
        "GET {path} HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200 ") => print!("{body}"),
        _ => return Err(Error::other(answer)),
    }
    Ok(())
}
