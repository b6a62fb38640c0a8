//! What runs in the pods of a test's node, as a static program without any other file: `pod pause` holds a sandbox,
//! `pod serve PORT` answers every HTTP request with its own mounts.
#![expect(clippy::print_stdout, reason = "a pod's log is its standard output")]

use std::io::{BufRead, BufReader, Result, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::{env, fs, thread};

fn main() -> Result<()> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["pause"] => loop {
            thread::park();
        },
        ["serve", port] => serve(port.parse().map_err(std::io::Error::other)?),
        _ => Err(std::io::Error::other("usage: pod pause | serve PORT")),
    }
}

fn serve(port: u16) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
    println!("serving on port {port}");
    for connection in listener.incoming() {
        // Whoever goes away early is no reason to stop.
        let _ = connection.and_then(answer);
    }
    Ok(())
}

fn answer(mut connection: TcpStream) -> Result<()> {
    let mut request = BufReader::new(connection.try_clone()?).lines();
    while request
        .next()
        .transpose()?
        .is_some_and(|line| !line.is_empty())
    {}
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length:";
    write!(connection, "{head} {}\r\n\r\n{mounts}", mounts.len())
}
